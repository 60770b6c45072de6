"""The first hour with a model: how much it overthinks, and what a training run could save, without training."""

from __future__ import annotations

from efficient_reasoning.audit.run import audit_logs, audit_model

__all__ = ["audit_logs", "audit_model"]
