"""Matrix products of tokens and kernels, with gradients that devices compute fast."""

import jax
import jax.numpy as jnp

from rf_jax.precision import matmul_precision


def flat_product(x, kernel, dimensions, **options):
    """x [..., i] times kernel [i, o], with the leading axes of x merged into one.

    The dimensions, which Flax passes, say nothing else.

    XLA on CPUs computes the gradient of a kernel from several contracted axes at half the speed,
    because it first transposes the gradient of the result.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], -1)


def precise_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., i] times kernel [i, o], at the precision of their type."""
    return flat_product(x, kernel, None, precision=matmul_precision(x.dtype))


@jax.custom_vjp
def two_products(x: jax.Array, first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [..., i] times two kernels [i, o] of the same type.

    On NVIDIA GPUs the gradient is one product with both kernels. What makes the gradients of the
    results then writes both in one pass, and those of x need not be added.
    """
    return tuple(precise_product(x, kernel) for kernel in (first, second))


def gradients_apart(x, first, second, *d_products):
    """The gradients of x and both kernels, from those of the results, as two gradients."""
    gradients = (
        jax.vjp(precise_product, x, kernel)[1](d)
        for kernel, d in zip((first, second), d_products, strict=True)
    )
    (d_x, d_first), (more, d_second) = gradients
    return d_x + more, d_first, d_second


def gradients_together(x, first, second, d_first_product, d_second_product):
    """What `gradients_apart` computes, as the gradient of one product."""
    d_products = jnp.concatenate([d_first_product, d_second_product], axis=-1)
    return gradients_of_both(x, first, second, jax.lax.optimization_barrier(d_products))


def gradients_of_both(x, first, second, d_products):
    """The gradients of x and both kernels, from those of the results [..., 2 o] side by side."""
    kernels = jnp.concatenate([first, second], axis=-1)
    d_x, d_kernels = jax.vjp(precise_product, x, kernels)[1](d_products)
    return d_x, *jnp.split(d_kernels, 2, axis=-1)


two_products.defvjp(
    lambda x, first, second: (two_products(x, first, second), (x, first, second)),
    lambda saved, d_products: jax.lax.platform_dependent(
        *saved, *d_products, cuda=gradients_together, default=gradients_apart
    ),
)
