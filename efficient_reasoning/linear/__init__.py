"""Linear attention with a window: models whose cache does not grow, made from models with softmax attention.

Importing it lets `AutoModelForCausalLM` load them without trusting the code in their folder, which is there for
everybody else.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from efficient_reasoning.linear.configuration_linearized import LinearizedConfig
from efficient_reasoning.linear.modeling_linearized import LinearizedForCausalLM

AutoConfig.register(LinearizedConfig.model_type, LinearizedConfig)
AutoModelForCausalLM.register(LinearizedConfig, LinearizedForCausalLM)
