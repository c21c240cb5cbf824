"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import accounts, audit, failed, operations, overview, runs

PAGE_MODULES: tuple[ModuleType, ...] = (accounts, overview, runs, failed, operations, audit)
