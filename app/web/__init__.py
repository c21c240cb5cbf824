"""The web process: it stores Truto's POSTs and answers them."""
