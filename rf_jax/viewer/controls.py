"""Settings of the image that all pages share."""

import viser

from rf_jax.attention import ATTENTIONS
from rf_jax.images.tone_map import TONE_MAPPERS
from rf_jax.rendering.renderer import MAX_RESOLUTION
from rf_jax.viewer.loop import RenderLoop, Settings

AUTOMATIC, OF_THE_WEIGHTS = "automatic", "as the weights name it"


def resolutions(first: int, multiple: int) -> list[int]:
    """Sides to choose from: the first one, doubled and halved as often as the network allows."""
    sides, side = {first}, first
    while side % (2 * multiple) == 0:
        side //= 2
        sides.add(side)
    sides |= {first * 2**i for i in (1, 2, 3) if first * 2**i <= MAX_RESOLUTION}
    return sorted(sides)


class SharedControls:
    """The folder "Image" of the panel."""

    def __init__(self, server: viser.ViserServer, loop: RenderLoop):
        self._loop, settings = loop, loop.settings
        multiple = loop.renderer.config.resolution_multiple
        sides = tuple(map(str, resolutions(settings.resolution, multiple)))
        with server.gui.add_folder("Image", order=1):
            gui = server.gui
            self._resolution = gui.add_dropdown(
                "Resolution", sides, initial_value=str(settings.resolution)
            )
            moving = {AUTOMATIC, *sides} | ({str(settings.moving)} if settings.moving else set())
            self._moving = gui.add_dropdown(
                "While moving",
                tuple(sorted(moving, key=lambda x: (x != AUTOMATIC, x.zfill(9)))),
                initial_value=_moving(settings),
                hint="automatic: as high as 20 images per second allow",
            )
            attentions = dict.fromkeys((OF_THE_WEIGHTS, *ATTENTIONS, _attention(settings)))
            self._attention = gui.add_dropdown(
                "Attention", tuple(attentions), initial_value=_attention(settings)
            )
            self._tone_mapper = gui.add_dropdown(
                "Tone mapper", TONE_MAPPERS, initial_value=settings.tone_mapper
            )
            self._exposure = gui.add_slider(
                "Exposure", -8.0, 8.0, 0.05, settings.exposure, hint="in stops"
            )
        for handle in self._handles():
            handle.on_update(self._on_update)

    def reset(self, settings: Settings) -> None:
        """Shows other settings than those that were chosen on a page."""
        self._resolution.value = str(settings.resolution)
        self._moving.value = _moving(settings)
        self._attention.value = _attention(settings)
        self._tone_mapper.value, self._exposure.value = settings.tone_mapper, settings.exposure

    def _handles(self) -> tuple[viser.GuiInputHandle, ...]:
        network = self._resolution, self._moving, self._attention
        return *network, self._tone_mapper, self._exposure

    async def _on_update(self, event: viser.GuiEvent) -> None:
        if event.client is None:  # `reset` did it
            return
        attention = self._attention.value
        self._loop.change_settings(
            resolution=int(self._resolution.value),
            moving=None if self._moving.value == AUTOMATIC else int(self._moving.value),
            attention=None if attention == OF_THE_WEIGHTS else attention,
            tone_mapper=self._tone_mapper.value,
            exposure=self._exposure.value,
        )


def _moving(settings: Settings) -> str:
    return AUTOMATIC if settings.moving is None else str(settings.moving)


def _attention(settings: Settings) -> str:
    return settings.attention or OF_THE_WEIGHTS
