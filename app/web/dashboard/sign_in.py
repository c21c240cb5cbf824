"""The pages to sign in and out."""

import logging

from flask import Blueprint, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from app.logs import log_limited
from app.web.dashboard.access import Access, Session, SignInLimit, find_client_address
from app.web.dashboard.dashboard import Dashboard


def register_sign_in(pages: Blueprint, access: Access, dashboard: Dashboard, limit: SignInLimit) -> None:
    """Add the pages to the blueprint. limit: checked before the form of a request is read."""

    @pages.get("/login")
    def sign_in() -> BaseResponse:
        return _redirect_to_target() if g.session else _render_form()

    @pages.post("/login")
    def check_password() -> BaseResponse:
        address = find_client_address(request)
        role = access.find_role(request.form.get("password", ""))
        if role is None:
            limit.record_failure(address)
            log_limited("sign_in.refused", level=logging.WARNING, address=address)
            return _render_form("The password is wrong.", 401)
        g.session = Session(role, "")
        dashboard.audit_sign_in()
        response = _redirect_to_target()
        access.start_session(request, response, role)
        return response

    @pages.post("/logout")
    def sign_out() -> BaseResponse:
        response = redirect(url_for("dashboard.sign_in"), 303)
        access.end_session(request, response)
        return response


def _render_form(problem: str = "", http_status: int = 200) -> BaseResponse:
    return make_response(render_template("dashboard/sign_in.html", problem=problem), http_status)


def _redirect_to_target() -> BaseResponse:
    """Redirect to the page that was asked for, on this site only."""
    target = request.args.get("next", "/")
    is_local = target.startswith("/") and target[1:2] not in ("/", "\\") and target.isprintable()
    return redirect(target if is_local else "/", 303)
