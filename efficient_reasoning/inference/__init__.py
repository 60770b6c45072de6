"""Budgeted inference: every checkpoint of the toolkit, and any model with think delimiters, runs through here."""

from efficient_reasoning.inference.engine import Completion, Engine, Request, Sampling
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.reasoner import Reasoner, load_reasoner
from efficient_reasoning.inference.solve import Solution, check_request, respond_many, solve, solve_many, take_apart
from efficient_reasoning.inference.strategy import STRATEGIES, Assignment, Response, Strategy, get_strategy

__all__ = [
    "STRATEGIES",
    "Assignment",
    "Completion",
    "Engine",
    "Ledger",
    "Reasoner",
    "Request",
    "Response",
    "Sampling",
    "Solution",
    "Strategy",
    "check_request",
    "get_strategy",
    "load_reasoner",
    "respond_many",
    "solve",
    "solve_many",
    "take_apart",
]
