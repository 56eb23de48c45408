"""What a screen reader is given: Chromium's own accessibility tree, as lines to be compared."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

_SAID = {"main", "navigation", "region", "heading", "status", "alert", "group", "radiogroup", "radio"}
_SAID |= {"checkbox", "textbox", "button", "link", "image", "progressbar", "table", "list", "caption"}
_SAID |= {"columnheader", "rowheader", "searchbox", "combobox", "dialog", "banner", "contentinfo"}
_STATES = ("level", "required", "invalid", "checked", "disabled", "busy", "live", "atomic")
_QUIET = {("invalid", "false"), ("required", False), ("checked", "false"), ("busy", False), ("live", "")}
"""States that are not said."""


def outline(page: Page) -> list[str]:
    """The page's landmarks, headings, controls and live regions in order.

    A line is ``role "name" (description) [states]``; a live region has its text in place of a name.
    """
    nodes = _nodes(page)
    by_id = {node["nodeId"]: node for node in nodes}
    return [_line(node, by_id) for node in nodes if not node["ignored"] and _role(node) in _SAID]


def texts(page: Page) -> list[str]:
    """Every piece of text that is read out, in order."""
    return [_name(node) for node in _nodes(page) if not node["ignored"] and _role(node) == "StaticText"]


def _nodes(page: Page) -> list[dict[str, Any]]:
    link = page.context.new_cdp_session(page)
    try:
        link.send("Accessibility.enable")
        found: list[dict[str, Any]] = link.send("Accessibility.getFullAXTree")["nodes"]
    finally:
        link.detach()
    return _in_order(found)


def _in_order(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The order in which a screen reader comes to them; the protocol's is another."""
    by_id = {node["nodeId"]: node for node in nodes}
    seen: list[dict[str, Any]] = []

    def visit(node: dict[str, Any]) -> None:
        seen.append(node)
        for child in node.get("childIds", ()):
            if child in by_id:
                visit(by_id[child])

    visit(next(node for node in nodes if "parentId" not in node))
    return seen


def _role(node: dict[str, Any]) -> str:
    return str(node.get("role", {}).get("value", ""))


def _name(node: dict[str, Any]) -> str:
    return str(node.get("name", {}).get("value", ""))


def _text(node: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> str:
    if _role(node) == "StaticText":
        return _name(node)
    return "".join(_text(by_id[child], by_id) for child in node.get("childIds", ()) if child in by_id)


def _line(node: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> str:
    name = _text(node, by_id) if _role(node) in ("status", "alert") else _name(node)
    description = node.get("description", {}).get("value", "")
    states = {one["name"]: one["value"].get("value") for one in node.get("properties", ())}
    kept = [(key, states[key]) for key in _STATES if key in states and (key, states[key]) not in _QUIET]
    said = [key if value is True or value == "true" else f"{key} {value}" for key, value in kept]
    line = [_role(node), f'"{name}"']
    if description:
        line.append(f"({description})")
    if said:
        line.append(f"[{', '.join(said)}]")
    return " ".join(line)
