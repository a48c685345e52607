"""Lambert plus GGX as a vectorised Mitsuba BSDF, with energy compensation by direction of view.

This module must be imported after `mitsuba.set_variant`. The variant must be a vectorised one,
because with a scalar one every ray would call back into Python.
"""

import drjit as dr
import mitsuba as mi
import numpy as np

from rf_jax.datagen.microfacet import albedo_table, mean_albedo_table, multiple_scattering


def register_bsdf() -> None:
    """Registers the BSDF `lambert_ggx`, with the textures `diffuse`, `specular`, `roughness`."""
    mi.register_bsdf("lambert_ggx", LambertGGX)


class LambertGGX(mi.BSDF):
    """diffuse / pi + s D G2 / (4 cos_i cos_o), with s scaled for the energy that bounces again."""

    def __init__(self, props: mi.Properties):
        super().__init__(props)
        self.diffuse = props["diffuse"]
        self.specular = props["specular"]
        self.roughness = props["roughness"]
        # The rows (y) are roughness, the columns (x) are cosines
        self.albedo = _texture(albedo_table())
        self.mean = _texture(np.repeat(mean_albedo_table(True)[:, None], 2, axis=1))
        front = mi.BSDFFlags.FrontSide
        self.m_components = [
            mi.BSDFFlags.DiffuseReflection | front,
            mi.BSDFFlags.GlossyReflection | front | mi.BSDFFlags.SpatiallyVarying,
        ]
        self.m_flags = self.m_components[0] | self.m_components[1]

    def sample(self, ctx, si, sample1, sample2, active=True):
        cos_i = mi.Frame3f.cos_theta(si.wi)
        lobe = _Lobe(self, si, active)
        specular = sample1 < lobe.probability
        normal, _ = lobe.distribution.sample(si.wi, sample2)
        wo = dr.select(
            specular,
            mi.reflect(si.wi, normal),
            mi.warp.square_to_cosine_hemisphere(sample2),
        )
        bs = mi.BSDFSample3f()
        bs.wo, bs.eta = wo, 1.0
        bs.sampled_component = dr.select(specular, mi.UInt32(1), mi.UInt32(0))
        bs.sampled_type = dr.select(
            specular,
            mi.UInt32(+mi.BSDFFlags.GlossyReflection),
            mi.UInt32(+mi.BSDFFlags.DiffuseReflection),
        )
        value, bs.pdf = self._eval_pdf(si, wo, lobe)
        active = active & (cos_i > 0) & (bs.pdf > 0)
        return bs, dr.select(active, value / bs.pdf, 0)

    def eval(self, ctx, si, wo, active=True):
        return self.eval_pdf(ctx, si, wo, active)[0]

    def pdf(self, ctx, si, wo, active=True):
        return self.eval_pdf(ctx, si, wo, active)[1]

    def eval_pdf(self, ctx, si, wo, active=True):
        return self._eval_pdf(si, wo, _Lobe(self, si, active))

    def eval_diffuse_reflectance(self, si, active=True):
        return self.diffuse.eval(si, active)

    def _eval_pdf(self, si, wo, lobe):
        """Value times cosine, and sampling density, of the reflection into wo."""
        cos_i, cos_o = mi.Frame3f.cos_theta(si.wi), mi.Frame3f.cos_theta(wo)
        valid = (cos_i > 0) & (cos_o > 0)
        half = dr.normalize(si.wi + wo)
        shadowing = 1 / (1 + _smith_lambda(si.wi, lobe.alpha) + _smith_lambda(wo, lobe.alpha))
        glossy = lobe.distribution.eval(half) * shadowing / (4 * cos_i)
        value = lobe.diffuse * cos_o / dr.pi + lobe.specular * glossy
        glossy_pdf = lobe.distribution.pdf(si.wi, half) / (4 * dr.dot(wo, half))
        pdf = dr.lerp(cos_o / dr.pi, glossy_pdf, lobe.probability)
        return dr.select(valid, value, 0), dr.select(valid, pdf, 0)

    def to_string(self):
        return "LambertGGX[]"


class _Lobe:
    """The material at surface points; its specular colour is scaled for the direction of view."""

    def __init__(self, bsdf: LambertGGX, si, active):
        self.diffuse = bsdf.diffuse.eval(si, active)
        colour = bsdf.specular.eval(si, active)
        roughness = bsdf.roughness.eval_1(si, active)
        self.alpha = dr.maximum(roughness * roughness, 1e-4)
        self.distribution = mi.MicrofacetDistribution(mi.MicrofacetType.GGX, self.alpha, True)
        albedo = bsdf.albedo.eval(_table_uv(mi.Frame3f.cos_theta(si.wi), roughness))[0]
        mean = bsdf.mean.eval(_table_uv(0.5, roughness))[0]
        again = multiple_scattering(colour, mean)
        self.specular = colour * (1 + again * (1 - albedo) / dr.maximum(albedo, 1e-3))
        weights = dr.max(colour), dr.max(self.diffuse)
        self.probability = weights[0] / dr.maximum(weights[0] + weights[1], 1e-8)


def _table_uv(cosine, roughness):
    """Texture coordinates in a table, whose texel centres are the samples at 0, 1/32, ..., 1."""
    size = albedo_table().shape[0]
    return mi.Point2f(
        (dr.clip(cosine, 0, 1) * (size - 1) + 0.5) / size,
        (dr.clip(roughness, 0, 1) * (size - 1) + 0.5) / size,
    )


def _smith_lambda(direction, alpha):
    cosine = mi.Frame3f.cos_theta(direction)
    tangent_squared = 1 / dr.maximum(cosine * cosine, 1e-12) - 1
    return 0.5 * (dr.sqrt(1 + alpha * alpha * dr.maximum(tangent_squared, 0)) - 1)


def _texture(table: np.ndarray) -> mi.Texture2f:
    tensor = mi.TensorXf(table[..., None].astype(np.float32))
    return mi.Texture2f(tensor, wrap_mode=dr.WrapMode.Clamp)
