"""From settings to a redis-py client: one server, Sentinel or Redis Cluster."""
