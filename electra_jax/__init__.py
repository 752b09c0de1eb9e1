"""ELECTRA in JAX and Flax: pre-training and fine-tuning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from electra_jax.finetune.finetuned import FineTuned
    from electra_jax.finetune.loading import load
    from electra_jax.pretrain.pretrained import Pretrained

__all__ = ["FineTuned", "Pretrained", "load"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: a program that only reads settings waits for neither JAX nor orbax.
    if name in __all__:
        from electra_jax.finetune import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
