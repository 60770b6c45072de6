"""Latent pre-training by recurrent depth: a model that thinks by running the same layers again.

Importing it lets `AutoModelForCausalLM` load such models without trusting code in their folder, and lets their
`save_pretrained` write that code there, for everybody else.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from efficient_reasoning.recurrent.configuration_recurrent import RecurrentConfig
from efficient_reasoning.recurrent.modeling_recurrent import RecurrentForCausalLM

AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig)
AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM)
RecurrentConfig.register_for_auto_class()
RecurrentForCausalLM.register_for_auto_class("AutoModelForCausalLM")
