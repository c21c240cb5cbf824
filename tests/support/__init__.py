"""Real servers, processes and fixtures that the tests share."""
