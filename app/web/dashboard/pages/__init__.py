"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import audit, overview

PAGE_MODULES: tuple[ModuleType, ...] = (audit, overview)
