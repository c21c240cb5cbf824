"""The pages of the dashboard, one module for each area."""

from types import ModuleType

from app.web.dashboard.pages import audit, deliveries, delivery_body

PAGE_MODULES: tuple[ModuleType, ...] = (audit, deliveries, delivery_body)
