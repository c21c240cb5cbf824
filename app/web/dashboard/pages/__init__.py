"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import (
    accounts,
    audit,
    deliveries,
    delivery_body,
    failed,
    operations,
    overview,
    runs,
)

PAGE_MODULES: tuple[ModuleType, ...] = (
    accounts,
    overview,
    runs,
    deliveries,
    failed,
    operations,
    delivery_body,
    audit,
)
