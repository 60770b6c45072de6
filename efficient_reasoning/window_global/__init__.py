"""Sparse attention: every query sees a window of the last tokens and a few global ones, in every layer.

Importing it lets `AutoModelForCausalLM` load such models without trusting code in their folder, and lets their
`save_pretrained` write that code there, for everybody else.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from efficient_reasoning.window_global.configuration_window_global import WindowGlobalConfig
from efficient_reasoning.window_global.modeling_window_global import WindowGlobalForCausalLM

AutoConfig.register(WindowGlobalConfig.model_type, WindowGlobalConfig)
AutoModelForCausalLM.register(WindowGlobalConfig, WindowGlobalForCausalLM)
WindowGlobalConfig.register_for_auto_class()
WindowGlobalForCausalLM.register_for_auto_class("AutoModelForCausalLM")
