"""Albedos of the rough specular lobe, and the energy that single scattering loses.

The ground truth's surface is Lambert plus GGX (alpha = roughness^2, reflectance 1 at every angle)
weighted by the specular colour, with the lobe scaled so that light scattered more than once inside
the microsurface is not lost (Turquin 2019, "Practical multiple scattering compensation for
microfacet models", as Blender's Cycles does it).
"""

import functools

import numpy as np

ROUGHNESS = np.linspace(0, 1, 33)
"""Where the tables are sampled."""

COSINES = np.linspace(0, 1, 33)
_SMALLEST_COSINE = 1e-3
_SAMPLES = 64  # a side of the grid of samples of the visible normals


def directional_albedo(cosine: np.ndarray, roughness: np.ndarray, correlated: bool) -> np.ndarray:
    """Share of light that the GGX lobe of reflectance 1 reflects by single scattering.

    Args:
      cosine: [...] of the angle between the direction of view and the normal.
      roughness: [...] in [0, 1].
      correlated: Smith's height-correlated shadowing (Cycles), or the separable (Mitsuba's
        roughconductor).
    """
    cosine, roughness = np.broadcast_arrays(cosine, roughness)
    albedo = [
        _lobe_albedo(max(c, _SMALLEST_COSINE), max(r * r, 1e-4), correlated)
        for c, r in zip(cosine.flat, roughness.flat, strict=True)
    ]
    return np.array(albedo).reshape(cosine.shape)


def _lobe_albedo(cosine: float, alpha: float, correlated: bool) -> float:
    """Mean of G2 / G1 over visible normals (Heitz 2018, Sampling the GGX distribution)."""
    wi = np.array([np.sqrt(max(0.0, 1 - cosine * cosine)), 0.0, cosine])
    ticks = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    u, v = (a.reshape(-1) for a in np.meshgrid(ticks, ticks))
    normal = _visible_normals(wi, alpha, u, v)
    cosine_o = 2 * (normal @ wi) * normal[:, 2] - wi[2]
    lambda_i = _smith_lambda(cosine, alpha)
    lambda_o = _smith_lambda(np.maximum(cosine_o, 1e-9), alpha)
    weight = (1 + lambda_i) / (1 + lambda_i + lambda_o) if correlated else 1 / (1 + lambda_o)
    return float(np.where(cosine_o > 0, weight, 0).mean())


def _visible_normals(wi: np.ndarray, alpha: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[K, 3] microfacet normals seen from wi, for points (u, v) of the unit square."""
    stretched = wi * [alpha, alpha, 1]
    stretched /= np.linalg.norm(stretched)
    length = np.hypot(stretched[0], stretched[1])
    first = np.array([-stretched[1], stretched[0], 0]) / length if length else np.eye(3)[0]
    second = np.cross(stretched, first)
    radius, angle = np.sqrt(u), 2 * np.pi * v
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    blend = 0.5 * (1 + stretched[2])
    y = (1 - blend) * np.sqrt(1 - x * x) + blend * y
    z = np.sqrt(np.maximum(0, 1 - x * x - y * y))
    normal = x[:, None] * first + y[:, None] * second + z[:, None] * stretched
    normal = normal * [alpha, alpha, 1]
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _smith_lambda(cosine: np.ndarray, alpha: float) -> np.ndarray:
    tangent_squared = 1 / np.square(cosine) - 1
    return 0.5 * (np.sqrt(1 + alpha * alpha * tangent_squared) - 1)


@functools.cache
def albedo_table() -> np.ndarray:
    """[33, 33] height-correlated directional albedo over `ROUGHNESS` and `COSINES`."""
    return directional_albedo(COSINES[None], ROUGHNESS[:, None], correlated=True)


@functools.cache
def mean_albedo_table(correlated: bool) -> np.ndarray:
    """[33] cosine-weighted mean of the directional albedo over `ROUGHNESS`."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    cosines, weights = (nodes + 1) / 2, weights / 2
    albedo = directional_albedo(cosines[None], ROUGHNESS[:, None], correlated)
    return (2 * albedo * cosines * weights).sum(axis=1)


def mean_albedo(roughness: np.ndarray, correlated: bool) -> np.ndarray:
    """[...] cosine-weighted mean of the single-scattering albedo."""
    return np.interp(roughness, ROUGHNESS, mean_albedo_table(correlated))


def multiple_scattering(specular: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Reflectance Fms of the light that single scattering loses.

    Args:
      specular: [...] reflectance of the microfacets.
      mean: [...] of the single-scattering albedo.
    """
    return specular * mean / (1 - specular * (1 - mean))


def specular_scale(specular: np.ndarray, roughness: np.ndarray) -> np.ndarray:
    """Weight of Mitsuba's roughconductor that gives the lobe's mean albedo, all scattering counted.

    Args:
      specular: [N, 3] reflectance of the microfacets.
      roughness: [N].

    Returns:
      [N, 3]; above 1 where a rough white surface loses much.
    """
    mean = mean_albedo(roughness, correlated=True)[:, None]
    # Turquin's s [E + Fms (1 - E)] averages to Fms, as defined above
    return multiple_scattering(specular, mean) / mean_albedo(roughness, correlated=False)[:, None]
