"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import (
    accounts,
    audit,
    deletes,
    deliveries,
    delivery_body,
    failed,
    operations,
    overview,
    routes,
    runs,
    sinks,
)

PAGE_MODULES: tuple[ModuleType, ...] = (
    accounts,
    overview,
    runs,
    deliveries,
    failed,
    sinks,
    deletes,
    routes,
    operations,
    delivery_body,
    audit,
)
