"""configs/rooms.py with the Performer in the view-independent stage, with the options that help.

python train.py --config configs/rooms_performer.py --workdir workdirs/rooms_performer

docs/quality.md compares the Performer with exact attention.

docs/attention.md explains the options. To train without them (plain FAVOR+), add
--config.model.performer_hyperbolic=False --config.model.performer_center_keys=False
--config.model.performer_temperature=False
"""

from ml_collections import ConfigDict

from rf_jax.configs import rooms


def get_config() -> ConfigDict:
    config = rooms.get_config()
    config.model.view_independent_attention = "performer"
    config.model.performer_hyperbolic = True
    config.model.performer_center_keys = True
    config.model.performer_temperature = True
    config.performer_redraw_every_steps = 1000
    return config
