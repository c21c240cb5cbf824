"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import (
    accounts,
    audit,
    deliveries,
    delivery_body,
    runs,
)

PAGE_MODULES: tuple[ModuleType, ...] = (
    accounts,
    audit,
    deliveries,
    delivery_body,
    runs,
)
