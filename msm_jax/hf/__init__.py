"""Hugging Face checkpoints and peft adapters: in and out, tensor by tensor."""
