"""What several tests need.

The conftest has pytest rewrite the assertions of these modules; a plugin among them
(``-p tests.support.least_privilege``) imports the package itself before: PYTEST_DONT_REWRITE
"""
