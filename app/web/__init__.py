"""The web process: takes Truto's POSTs, stores them, answers."""
