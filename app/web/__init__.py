"""HTTP: the routes, and the server that reads requests and runs the application in threads."""
