"""Checks of an installation: settings, servers, sinks, Truto, and simulated runs."""
