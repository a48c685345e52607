"""The GPUs that programs can be planned for.

Sizes and clocks are those of NVIDIA's data sheets and architecture white papers; the limits of
blocks and shared memory are those of the CUDA programming guide for the compute capability.
"""

import dataclasses

GIB = 2**30

REACHED_FLOPS = 0.8
"""Share of the data sheet's product rate that the largest products reach in practice."""

REACHED_BANDWIDTH = 0.9
"""The same for the memory's bandwidth, and for that of the links between GPUs."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU, in the quantities that compiling and a roofline need.

    Attributes:
      name: the name that drivers report.
      capability: the CUDA compute capability, (major, minor).
      memory: bytes that programs see.
      cores: number of streaming multiprocessors.
      lanes: float32 units per multiprocessor.
      threads: largest number of resident threads per multiprocessor.
      shared: bytes of shared memory per multiprocessor; a block can have 1 KiB less.
      l2: bytes of level-2 cache.
      clock_ghz: boost clock.
      bandwidth: bytes per second of the memory, by the data sheet.
      half: FLOP/s of 16-bit products with float32 sums, dense, by the data sheet.
      tf32: FLOP/s of TF32 products.
      single: FLOP/s of float32 products.
      link: bytes per second that one GPU sends to the others of its node, by the data sheet.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    cores: int
    lanes: int
    threads: int
    shared: int
    l2: int
    clock_ghz: float
    bandwidth: float
    half: float
    tf32: float
    single: float
    link: float

    def product_rate(self, precision: str) -> float:
        """FLOP/s that products are taken to reach: "half", "tf32" or "single"."""
        return REACHED_FLOPS * getattr(self, precision)

    def target_config(self) -> str:
        """The description for XLA, a `GpuTargetConfigProto` in text form."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.shared - 1024}
  threads_per_core_limit: {self.threads}
  core_count: {self.cores}
  fpus_per_core: {self.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(self.bandwidth)}
  l2_cache_size: {self.l2}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{self.name}"
"""


_HOPPER = {
    "capability": (9, 0),
    "cores": 132,
    "lanes": 128,
    "threads": 2048,
    "shared": 228 * 2**10,
    "l2": 50 * 2**20,
    "clock_ghz": 1.98,
    "half": 989e12,
    "tf32": 494e12,
    "single": 67e12,
    "link": 450e9,
}
_A100 = {
    "capability": (8, 0),
    "cores": 108,
    "lanes": 64,
    "threads": 2048,
    "shared": 164 * 2**10,
    "l2": 40 * 2**20,
    "clock_ghz": 1.41,
    "half": 312e12,
    "tf32": 156e12,
    "single": 19.5e12,
    "link": 300e9,
}

GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", memory=84_929_347_584, bandwidth=3.35e12, **_HOPPER),
    "h200": Gpu("NVIDIA H200", memory=150_109_880_320, bandwidth=4.8e12, **_HOPPER),
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", memory=42_298_834_944, bandwidth=1.555e12, **_A100),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", memory=84_987_740_160, bandwidth=2.039e12, **_A100),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090",
        capability=(8, 9),
        memory=25_393_692_672,
        cores=128,
        lanes=128,
        threads=1536,
        shared=100 * 2**10,
        l2=72 * 2**20,
        clock_ghz=2.52,
        bandwidth=1.008e12,
        half=165e12,
        tf32=82.6e12,
        single=82.6e12,
        link=32e9,
    ),
}
"""By the names on the command line. The RTX 4090's link is PCIe 4.0; the others have NVLink."""
