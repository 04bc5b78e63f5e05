"""Which photographs and fonts the benchmark takes from which packages, and under which licence. Plain data.

Chosen by eye: photographs, not drawings, and none in which something of the vocabulary stands out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Files of one package.

    Attributes:
        package: what to download.
        folder: where its files lie below the folder of unpacked packages.
        stems: files, without their endings.
        licence: of these files, as the package tells it.
    """

    package: str
    folder: str
    stems: tuple[str, ...]
    licence: str


PHOTOGRAPHS = (
    Source(
        "Debian lomiri-wallpapers-16.04", "bg/lomiri-wallpapers-16.04/usr/share/backgrounds",
        ("Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Picture_0B_by_freespace", "Picture_1A_by_freespace",
         "Wine_by_Jakkub_Mede", "aitzgorri_by_Aitzol_Berasategi", "friends_by_Aitzol_Berasategi",
         "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt",
         "sunset_by_Aitzol_Berasategi"),
        "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0",
    ),
    Source(
        "Debian lomiri-wallpapers-20.04", "bg/lomiri-wallpapers-20.04/usr/share/backgrounds",
        ("Kleiber_by_Lukas_Baubkus",), "CC-BY-SA-4.0",
    ),
    Source(
        "Debian mate-backgrounds", "bg/mate-backgrounds/usr/share/backgrounds/mate/nature",
        ("Aqua", "Blinds", "Dune", "GreenMeadow", "RainDrops", "Storm", "TwoWings", "Wood"), "GPL-2+",
    ),
    Source(
        "Debian plasma-workspace-wallpapers", "bg/plasma-workspace-wallpapers/usr/share/wallpapers",
        tuple(f"{name}/contents/images/2560x1600" for name in
              ("BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Path",
               "summer_1am", "OneStandsOut")),
        "GPL-2+",
    ),
    Source(
        "Debian tuxpaint-data", "bg/tuxpaint-data/usr/share/tuxpaint/templates",
        ("burnt_bark", "cliff", "corn_maze", "jellyfish", "lighthouse", "mossy_bark", "mossy_log", "mudstone",
         "ocean_splash", "ocean_waves", "redwoods_above", "rocks", "spiders_web", "sun_behind_clouds",
         "sun_behind_leaves", "trees_above", "trees_at_dusk", "wool_mill_machine"),
        "GPL-2+",
    ),
    Source(
        "Debian opencv-doc", "bg/opencv-doc/usr/share/doc/opencv-doc/examples/data",
        ("aero1", "aero3", "aloeL", "board", "building", "home", "leuvenA", "stuff"), "Apache-2.0",
    ),
    Source(
        "PyPI scikit-image", "skimage/data", ("brick", "grass", "gravel", "hubble_deep_field"), "CC0, public domain",
    ),
)  # fmt: skip

FONTS = Source(
    "Debian fonts-dejavu-core, fonts-liberation, fonts-lato, fonts-open-sans, fonts-comfortaa, fonts-roboto-unhinted",
    "fonts",
    (
    "Comfortaa-Bold", "Comfortaa-Regular", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "Lato-Black", "Lato-Bold", "Lato-BoldItalic", "Lato-Regular", "LiberationMono-Bold",
    "LiberationSans-Bold", "LiberationSans-Regular", "LiberationSansNarrow-Bold", "LiberationSerif-Bold",
    "LiberationSerif-Regular", "OpenSans-Bold", "OpenSans-Regular", "OpenSans-Semibold", "Roboto-Black",
    "Roboto-Bold", "Roboto-Regular", "RobotoCondensed-Bold",
),
    "Bitstream Vera, OFL-1.1, Apache-2.0",
)  # fmt: skip
