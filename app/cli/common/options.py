"""Options that many commands share."""

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Continue without a confirmation prompt.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
