"""Which files make up each batch, and to what length its scenes are padded.

The order is a pure function of the seed and the batch's number, so that a resumed run goes on where
it was, on any number of processes.
"""

import dataclasses
import functools

import numpy as np

POOL = 64
"""Number of batches whose scenes are sorted by length together. More would waste less padding, and
draw scenes less at random."""


@dataclasses.dataclass(frozen=True, eq=False)
class BatchOrder:
    """The endless sequence of batches of a split.

    All files are read in every epoch, each time in a new order. Where lengths differ, the scenes of
    `POOL` batches are sorted by length and cut into batches, which then come in random order; few
    of them hold scenes of two lengths.

    Attributes:
      lengths: for each file, the number of triangles that its scene is padded to at least.
      batch_size: B.
      seed: seed of the order.
      shuffled: whether the order is random; otherwise it is that of the lengths, then of the files.
    """

    lengths: tuple[int, ...]
    batch_size: int
    seed: int
    shuffled: bool

    def file_index(self, position: int) -> int:
        """The file of sample number `position` of the stream, which fills batches in turn."""
        batch, row = divmod(position, self.batch_size)
        return int(self._files(batch)[row])

    def padded_length(self, position: int) -> int:
        """The number of triangles that all scenes of this sample's batch are padded to."""
        return max(self.lengths[i] for i in self._files(position // self.batch_size))

    def draw_other(self, position: int, rng: np.random.Generator) -> int:
        """Draws a file that can take the place of another one in a sample's batch."""
        fitting = np.flatnonzero(np.array(self.lengths) <= self.padded_length(position))
        return int(rng.choice(fitting))

    def _files(self, batch: int) -> np.ndarray:
        """Indices [B] of the files of a batch."""
        if self.shuffled:
            pool, place = divmod(batch, POOL)
            return self._pool(pool)[place]
        positions = batch * self.batch_size + np.arange(self.batch_size)
        return self._by_length[positions % len(self.lengths)]

    @functools.cached_property
    def _by_length(self) -> np.ndarray:
        return np.argsort(self.lengths, kind="stable")

    @functools.lru_cache(maxsize=4)  # noqa: B019, an order lives as long as its run
    def _pool(self, pool: int) -> np.ndarray:
        """Indices [POOL, B] of the files of the batches of a pool."""
        count, size = len(self.lengths), POOL * self.batch_size
        epochs, places = np.divmod(pool * size + np.arange(size), count)
        files = np.concatenate(
            [
                _permutation(self.seed, epoch, count)[places[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
        )
        if len(set(self.lengths)) == 1:
            return files.reshape(POOL, -1)
        files = files[np.argsort(np.take(self.lengths, files), kind="stable")]
        rng = np.random.default_rng([self.seed, pool, POOL])
        return rng.permutation(files.reshape(POOL, -1))


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the files in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
