"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import (
    accounts,
    audit,
    runs,
)

PAGE_MODULES: tuple[ModuleType, ...] = (
    accounts,
    audit,
    runs,
)
