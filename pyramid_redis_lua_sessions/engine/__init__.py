"""What is done with a session in Redis; it knows neither Pyramid nor cookies."""
