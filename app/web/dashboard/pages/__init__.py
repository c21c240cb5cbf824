"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import (
    accounts,
    audit,
    routes,
    runs,
    sinks,
)

PAGE_MODULES: tuple[ModuleType, ...] = (
    accounts,
    audit,
    routes,
    runs,
    sinks,
)
