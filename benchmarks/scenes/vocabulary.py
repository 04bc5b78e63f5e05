"""The object names the composed scenes may use, and which pictures show each of them.

One line per name: `name | emoji | Tux Paint stamps`. Several pictures per name (photographs, renderings,
drawings) keep a model from learning one picture by heart. Plain data; reads no file.
"""

from __future__ import annotations

from dataclasses import dataclass

_TABLE = """
dog | 🐕 🐶 🐩 🦮 | dog dingo
cat | 🐈 🐱 🐈‍⬛ | blackcat
rabbit | 🐇 🐰 | rabbit rabbit-2 rabbit_little bunny
horse | 🐎 🐴 | horse
cow | 🐄 🐮 | cow cow_white
bull | 🐂 🐃 | bull
pig | 🐖 🐷 | pig pig_golden pig_golden2
sheep | 🐑 | sheep sheep_lamb
goat | 🐐 | goat mountaingoat
ram | 🐏 | ram
deer | 🦌 | deer doe wapiti
camel | 🐪 🐫 | camel dromedary
elephant | 🐘 | elephant
giraffe | 🦒 | giraffe
zebra | 🦓 | zebra
lion | 🦁 | lion lion-2
tiger | 🐅 🐯 | tiger tiger_sumatran
leopard | 🐆 |
bear | 🐻 | bear european-bear
polar bear | 🐻‍❄️ |
panda | 🐼 |
koala | 🐨 | koala
kangaroo | 🦘 | kangaroo
monkey | 🐒 🐵 | chimp tamarin_emperor
gorilla | 🦍 | gorilla
fox | 🦊 | fox
wolf | 🐺 |
raccoon | 🦝 |
badger | 🦡 | badger
beaver | 🦫 | beaver
otter | 🦦 | otter
hedgehog | 🦔 | hedgehog
squirrel | 🐿️ | squirrel
mouse | 🐁 🐭 | mouse
rat | 🐀 | rat
hippo | 🦛 | hippopotamus
rhino | 🦏 | rhino_black
donkey | 🫏 | donkey donkey_eating
unicorn | 🦄 |
frog | 🐸 | frog frog-1
turtle | 🐢 |
snake | 🐍 |
lizard | 🦎 | iguana
crocodile | 🐊 |
dinosaur | 🦕 🦖 |
dragon | 🐉 🐲 |
whale | 🐋 🐳 | whale orca
dolphin | 🐬 | dolphin
seal | 🦭 | sea_lion
shark | 🦈 |
fish | 🐟 🐠 | butterflyfish clownfish moonwrasse stripedfish coraltrout
octopus | 🐙 |
crab | 🦀 |
lobster | 🦞 | lobster
shrimp | 🦐 | shrimp
shell | 🐚 |
bird | 🐦 | blackbird lark cuckoo bluebird magpie seagull silver-gull
crow | 🐦‍⬛ | crow
chicken | 🐔 | chicken_profile hen
rooster | 🐓 | rooster
chick | 🐤 🐥 🐣 | chick chick-hatched
duck | 🦆 | duck drake rubberduck
swan | 🦢 |
goose | 🪿 | gander
owl | 🦉 | owl
eagle | 🦅 |
parrot | 🦜 | adelaide-rosella rainbow-lorikeet
flamingo | 🦩 | pink_flamingo
peacock | 🦚 | peacock
penguin | 🐧 | penguin magellanic_penguin little-penguin
turkey | 🦃 | turkey
pigeon | 🕊️ | pigeon
bat | 🦇 | bat_left
bee | 🐝 | bee
butterfly | 🦋 | butterfly
ladybug | 🐞 | ladybug ladybug-2
ant | 🐜 |
spider | 🕷️ | spider
snail | 🐌 | snail snail2
fly | 🪰 | fly
grasshopper | 🦗 | grasshopper
scorpion | 🦂 |
apple | 🍎 🍏 | apple_red apple_green apple_fuji apple_granny_smith apple
pear | 🍐 | pear
orange | 🍊 | orange mandarine orange_seville
lemon | 🍋 | lemon
banana | 🍌 | banana
watermelon | 🍉 |
grapes | 🍇 | grapes
strawberry | 🍓 | strawberry Strawberry2
cherries | 🍒 | Cherry_Stella cherries
peach | 🍑 | peach apricot
mango | 🥭 | mango
pineapple | 🍍 | pineapple
coconut | 🥥 |
kiwi | 🥝 | kiwi
tomato | 🍅 | tomato
avocado | 🥑 | avocado
eggplant | 🍆 | eggplant
potato | 🥔 | potato
carrot | 🥕 | carrot
corn | 🌽 | corn
pepper | 🫑 🌶️ | pepper yellowpepper chilepepper
broccoli | 🥦 | broccoli
lettuce | 🥬 | lettuce redlettuce
garlic | 🧄 | garlic
onion | 🧅 | onion
mushroom | 🍄 | mushroom cep cep-1
bread | 🍞 🥖 |
cheese | 🧀 |
hamburger | 🍔 |
pizza | 🍕 | pizza
egg | 🥚 | wrapped_chocolate_easter_egg
cake | 🎂 🍰 | birthday_cake pink_cake
cookie | 🍪 |
ice cream | 🍦 🍨 |
cup | ☕ 🥤 | mug glass
teapot | 🫖 | teapot kettle
bottle | 🍾 🍼 |
car | 🚗 🚙 🚘 | beetle sedan sportscar2 indycar
taxi | 🚕 |
police car | 🚓 🚔 |
bus | 🚌 🚍 | green_korean_bus double_decker_bus
truck | 🚚 🚛 | truck garbagetruck dumper
fire engine | 🚒 | firetruck fire_engine
ambulance | 🚑 |
tractor | 🚜 |
train | 🚂 🚆 🚅 | toy_train
bicycle | 🚲 |
motorcycle | 🏍️ 🛵 |
airplane | ✈️ 🛩️ | 747 plane f22_raptor
helicopter | 🚁 | eddieCopter
rocket | 🚀 |
balloon | 🎈 |
boat | ⛵ 🚤 | chineseJunk tugboat
ship | 🚢 🛳️ |
anchor | ⚓ |
house | 🏠 🏡 |
castle | 🏰 🏯 |
tent | ⛺ |
tree | 🌳 🌲 | birch holm_oak Christmas_Tree_photo
palm tree | 🌴 | liberia-palm
cactus | 🌵 |
flower | 🌸 🌼 🌺 | flower1 flower2 flower5 flower6 flower8 flower9 chemparathi anemone_red daffodil
rose | 🌹 | rose
sunflower | 🌻 |
tulip | 🌷 |
leaf | 🍁 🍃 |
moon | 🌕 🌙 | moon_full moon_crescent moon_3qt
sun | ☀️ 🌞 | 0_sun
planet | 🪐 | 6_saturn 5_jupiter
globe | 🌍 🌎 | 3_earth
star | ⭐ 🌟 | star
cloud | ☁️ |
rainbow | 🌈 |
fire | 🔥 | fire
snowman | ⛄ ☃️ | snowman
pumpkin | 🎃 | pumpkin_small jackolantern_mean
ghost | 👻 | ghost
skull | 💀 | skull
robot | 🤖 |
alien | 👽 |
man | 👨 👨🏻 👨🏽 👨🏿 🧔🏼 👴🏻 👨🏼‍💼 | fireman200b
woman | 👩 👩🏻 👩🏽 👩🏿 👱🏻‍♀️ 👵🏻 👩🏼‍💼 |
child | 🧒🏻 🧒🏽 👧🏼 👦🏼 |
baby | 👶 👶🏼 |
cyclist | 🚴 🚴🏻 🚴🏼‍♂️ 🚵🏽 |
runner | 🏃 🏃🏻 🏃🏽‍♀️ |
astronaut | 🧑‍🚀 👩🏼‍🚀 | spacewalk
eye | 👁️ | eye
hand | ✋ 🖐🏼 |
heart | ❤️ 💙 💚 |
soccer ball | ⚽ |
basketball | 🏀 |
tennis ball | 🎾 |
trophy | 🏆 |
guitar | 🎸 | guitar_classical guitar_electric guitar2
violin | 🎻 | violin
trumpet | 🎺 | trumpet
drum | 🥁 | drum_tomtom_floor
piano | 🎹 |
camera | 📷 📸 | camera_35mm
telephone | ☎️ 📞 |
television | 📺 |
computer | 💻 🖥️ |
clock | ⏰ 🕰️ |
watch | ⌚ |
book | 📕 📖 📗 |
pencil | ✏️ |
scissors | ✂️ | scissors_small_closed scissors_small_open
key | 🔑 🗝️ | key
lock | 🔒 |
hammer | 🔨 | hammer mallet_metal
saw | 🪚 | saw
wrench | 🔧 | wrench wrench_adjustable
umbrella | ☂️ ☔ |
hat | 🎩 👒 | blue_fedora green_fedora tophat sombrero
shirt | 👕 👔 | t_tshirt t_poloshirt
sock | 🧦 | t_sock
glove | 🧤 | t_glove
shoe | 👟 👞 |
glasses | 👓 🕶️ |
crown | 👑 |
ring | 💍 |
bag | 👜 🎒 |
chair | 🪑 |
bed | 🛏️ |
toilet | 🚽 | toilet
light bulb | 💡 | Lightbulb
candle | 🕯️ | candle holiday_candle
bell | 🔔 |
gift | 🎁 |
teddy bear | 🧸 | teddy_bear edward_bear
kite | 🪁 |
"""


@dataclass(frozen=True)
class ObjectName:
    """One nameable object: the noun, and the pictures of it in each source."""

    name: str
    emoji: tuple[str, ...]
    stamps: tuple[str, ...]


PLURAL_NAMES = frozenset({"grapes", "cherries", "scissors", "glasses"})


def read_table(table: str = _TABLE) -> tuple[ObjectName, ...]:
    """Every object name with at least one picture, in the order of the table."""
    rows = [line.split("|") for line in table.strip().splitlines()]
    names = [ObjectName(name.strip(), tuple(emoji.split()), tuple(stamps.split())) for name, emoji, stamps in rows]
    return tuple(entry for entry in names if entry.emoji or entry.stamps)


def with_article(name: str) -> str:
    """`rabbit` -> `a rabbit`, `apple` -> `an apple`, `grapes` -> `some grapes`."""
    if name in PLURAL_NAMES:
        return f"some {name}"
    vowel = name[0] in "aeiou" and not name.startswith(("uni", "eu"))
    return f"{'an' if vowel else 'a'} {name}"
