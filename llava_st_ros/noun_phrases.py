"""Is a text an English noun phrase ("the green ball") or does it say that something happens?

The answer chooses the task of a query that names none, so it has to be explainable and cautious: a
text is a noun phrase only if nothing in it can be a verb. Closed classes, common verbs and common
nouns are listed; no grammar is parsed. Whatever is unknown, ambiguous or not English is not called
a noun phrase.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WORDS = 20


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# English beyond doubt. After one of them, nouns that are not listed below are accepted.
_DETERMINERS = _words(
    """
    the my your our his her their this these those every each both all some any another either
    """
)
_NUMBERS = _words(
    """
    a an one two three four five six seven eight nine ten dozen several many few first second
    third fourth fifth sixth last next other only same
    """
)
_PREPOSITIONS = _words(
    """
    of in on at with without near by behind beside besides between among under underneath below
    beneath above over inside outside opposite around across along against from for and or than
    to next nearest closest
    """
)
_ADJECTIVES = _words(
    """
    red green blue yellow orange purple violet pink brown black white gray grey beige cyan
    magenta turquoise maroon navy teal golden silver silvery colorful colourful transparent
    clear opaque light dark bright pale shiny matte small big large little tiny huge tall short
    long wide narrow thick thin high low deep shallow medium mini giant smaller bigger larger
    taller shorter longer higher lower smallest biggest largest tallest shortest longest highest
    lowest round square rectangular circular spherical cubic cylindrical flat curved straight
    triangular oval curly pointy sharp blunt hollow solid wooden metal metallic plastic glass
    paper cardboard rubber leather woolen cotton steel stone ceramic old new young clean dirty
    empty full open wet dry hot cold warm heavy soft hard smooth rough whole single double loose
    fragile nice beautiful ugly friendly elderly pregnant blond blonde bald male female human
    front back rear top bottom upper middle center central left right leftmost rightmost nearby
    close far nearest closest furthest farthest outer inner main spare electric electrical
    digital mobile remote automatic public fresh ripe sweet raw upside
    """
)
_NOUNS = _words(
    """
    ball box cube block sphere cylinder cone pyramid ring disc disk brick object thing item part
    piece shape circle triangle pair set group row pile stack bunch bit person man woman boy
    girl child baby kid toddler adult worker visitor customer patient guest pedestrian cyclist
    driver player operator human robot arm gripper hand finger head face eye ear nose mouth hair
    leg foot knee shoulder body back chest neck thumb someone somebody anyone anybody everyone
    something anything everything dog cat bird horse cow sheep goat pig chicken duck fish mouse
    rabbit animal puppy kitten bear lion tiger elephant monkey insect bee butterfly spider
    ladybird cup mug glass bottle can jar bowl plate dish saucer tray pot pan kettle lid fork
    knife spoon spatula ladle chopstick teapot thermos jug pitcher bucket basket bin trash
    garbage sink faucet tap sponge towel napkin tissue soap dispenser detergent apple banana
    orange lemon lime pear peach grape strawberry tomato potato carrot onion pepper cucumber egg
    bread cheese sandwich pizza cake cookie biscuit cereal milk juice water coffee tea beer wine
    soda drink food fruit vegetable snack chip sugar salt table chair desk sofa couch armchair
    bench stool bed pillow cushion blanket mattress lamp shelf cabinet cupboard drawer wardrobe
    closet dresser mirror curtain carpet rug mat door window wall floor ceiling roof stair step
    staircase elevator escalator hallway corridor room kitchen bathroom bedroom office garage
    garden house building entrance exit gate fence handle knob hinge fridge refrigerator freezer
    oven stove microwave toaster dishwasher washer dryer heater fan vacuum broom mop dustpan
    outlet socket plug cable wire cord switch button lever thermostat computer laptop keyboard
    monitor screen display tablet phone smartphone telephone charger camera tripod lens
    microphone speaker headphone headset television tv printer scanner projector router
    controller joystick remote console battery adapter sensor antenna drone book notebook
    newspaper magazine letter envelope card page sheet paper pen pencil marker eraser ruler
    stapler tape glue scissors folder binder clip calendar map poster picture photo painting
    drawing sticker label tag sign barcode logo number text word hammer screwdriver wrench plier
    pliers saw drill screw bolt nut nail tool toolbox clamp level ladder rope chain hook tube
    pipe hose valve pump gear wheel tire tyre motor engine bearing spring crate pallet barrel
    container package parcel carton suitcase backpack bag handbag purse wallet briefcase luggage
    umbrella key keychain lock watch clock necklace bracelet earring sunglasses glasses hat cap
    helmet shirt tshirt t-shirt jacket coat sweater hoodie dress skirt trousers pants jeans
    shorts sock shoe boot sneaker sandal glove scarf belt tie uniform vest mask apron car truck
    bus van taxi train tram bike bicycle motorcycle motorbike scooter boat ship plane airplane
    aircraft helicopter tractor trailer ambulance vehicle forklift cart trolley wheelchair
    stroller skateboard surfboard ski snowboard tree bush flower plant leaf grass branch trunk
    rock stone river lake sea ocean beach sand snow ice sky cloud sun moon star mountain hill
    field forest path road street sidewalk crosswalk lane intersection bridge tunnel station
    platform pole post traffic light barrier hydrant mailbox toy doll teddy puzzle lego dice
    domino kite balloon frisbee racket bat puck goal net basketball football soccer baseball
    tennis volleyball golf guitar piano violin drum trumpet toothbrush toothpaste hairbrush comb
    razor shampoo toilet bathtub shower medicine pill bandage syringe thermometer corner edge
    side surface line spot center middle end tip hole slot gap dot stripe arrow area region zone
    place left right front top bottom background foreground distance reach charging dining
    living swimming washing shopping parking alarm fire smoke candle torch lantern bulb
    extinguisher brush code qr aruco apriltag lady gentleman guy doctor nurse chef waiter ground
    """
)
# "-ing" that is a thing or its use, not an activity.
_ING_NOUNS = _words(
    """
    thing something anything everything nothing ring string spring king wing swing sling ceiling
    building painting drawing clothing bearing railing earring icing pudding charging dining
    living swimming washing shopping parking
    """
)
_ED_NOUNS = _words("red bed shed sled seed weed reed hundred infrared speed")
_LY_WORDS = _words(
    """
    only family butterfly fly jelly belly curly ugly friendly elderly assembly trolley holly
    lily early woolly
    """
)
_PLURALS = _words("people men women children feet teeth mice geese knives loaves dice")
# Plural in form, or ending in s without being plural.
_S_NOUNS = _words(
    """
    scissors glasses sunglasses pants trousers jeans shorts pliers bus lens gas canvas
    """
)
_NEVER = _words(
    """
    who whom whose which that what when where why how is are was were be been being am has have
    had having does do did done will would shall should can't could may might must gets get got
    gotten let lets let's i you he she it we they there here not never no now then again while
    until once after before during as if because since so but too still already yet soon
    suddenly together back-and-forth into onto toward towards away up down off out through past
    upwards downwards forward backward forwards backwards please la le el los las il gli lo der
    die das den dem des ein eine einen einem un une una uno les du de da dos het een och ett na
    ist und y et
    """
)
# Happenings: a noun phrase, but about something with a beginning and an end.
_HAPPENINGS = _words(
    """
    collision explosion accident crash impact event moment action activity movement motion
    gesture handshake handover hug kiss wave fight game race scene episode beginning start
    arrival departure touchdown takeoff landing kick throw catch jump fall hit punch slap strike
    bounce spin flip somersault dive leap sprint grasp grab pickup placement removal change
    disappearance appearance approach escape attack theft robbery
    """
)
_STATIC_TION = _words(
    """
    station workstation playstation section portion lotion television intersection
    """
)
_VERBS = _words(
    """
    go come bring take give make put keep become begin enter leave arrive depart approach fall
    rise sit stand lie lean kneel crouch climb crawl swim fly float sink appear disappear vanish
    emerge follow chase catch grab grasp carry hold lift pick pull drag shove throw toss hurl
    drive ride sail eat sip chew swallow pour spill mix stir chop slice peel cook bake fry boil
    wash wipe rinse clean dry sweep scrub open close shut unlock insert remove attach detach
    connect disconnect assemble dismantle build fix repair break crack smash shatter tear bend
    fold unfold wrap unwrap pack unpack fill empty add show see look find search detect locate
    track count tell describe say speak talk listen hear read write draw sing play laugh cry
    smile wave nod shake hug kiss greet meet join help wait pause stay remain continue happen
    occur move shift slide slip glide swing tilt tip topple tumble bounce collide crash touch
    press squeeze hang drop wear undress sleep wake burn melt freeze explode burst spread grow
    shrink expand contract vibrate rotate spin swap replace arrange align stack sort collect
    gather hand pass deliver receive send buy sell pay reach exit cross avoid block push kick
    punch slap strike beat tap knock dig plant drink watch ring lock plug label paint drill
    hammer saw screw nail brush comb dress fish duck water mop tape glue clip hook pump charge
    dust face head back step park ski smoke spot mark work rest use phone text call record iron
    score wrestle operate vacuum dance skate skip hop leap dive jog jump walk run roll turn stop
    start finish end land hit cut set split quit ask answer point try want need like love
    """
)
# Irregular past forms and participles; regular ones end in -ed.
_PAST = _words(
    """
    fell fallen rose risen ran came went gone left hit put cut set let shut hurt burst cast
    spread split quit broke broken threw thrown took taken gave given drove driven rode ridden
    flew flown swam swum sank sunk sat stood lay lain hung held kept caught brought bought
    thought taught fought found made lost built sent spent bent lent swept slept crept wept met
    fed led read said told sold heard saw seen ate eaten drank drunk sang sung rang rung spun
    slid bit bitten hid hidden wrote written spoke spoken woke woken wore worn tore torn swore
    sworn froze frozen stole stolen chose chosen drew drawn blew blown grew grown knew known
    shook shaken struck stuck dug won swung flung shot lit became become began begun got gotten
    did done had been was were clung knelt sped fled bled bred dealt leapt burnt sought shone
    stung strode wove woven slung spat sprang sprung stank trod trodden swollen shrunk shrank
    bound forgot
    """
)


def _third_person(verb: str) -> str:
    if re.search(r"(?:s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    return re.sub(r"(?<![aeiou])y$", "ie", verb) + "s"


_VERB_FORMS = frozenset(_third_person(verb) for verb in _VERBS)
_NOUN_PLURALS = frozenset(_third_person(noun) for noun in _NOUNS) | _PLURALS | _S_NOUNS
_BEFORE_NOUNS = _words(
    """
    the my your our her their every a an of in on at with without near by behind beside between
    among under underneath below beneath above over inside outside opposite around against from for
    """
)
_COUNTS = _words("two three four five six seven eight nine ten several many few these those")
_FUNCTION = _DETERMINERS | _NUMBERS | _PREPOSITIONS
_MODIFIERS = _FUNCTION | _ADJECTIVES
_KNOWN = _MODIFIERS | _NOUNS | _NOUN_PLURALS | _ING_NOUNS | _ED_NOUNS | _LY_WORDS
_TEXT = re.compile(r"[a-z0-9' ,&/-]+\.?")
_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")


@dataclass(frozen=True)
class _Word:
    """A word with its neighbors; those are empty at the ends."""

    word: str
    before: str
    after: str

    @property
    def is_noun(self) -> bool:
        """Whether the word before calls for a noun: "the", "of", "man's"; not "red" or "two".

        Those may be the subject themselves: "the red moves", "two fall".
        """
        return self.before in _BEFORE_NOUNS or self.before.endswith("'s")

    @property
    def is_attributive(self) -> bool:
        """Whether the word stands between such a word and a noun, as in "the broken cup"."""
        return self.is_noun and bool(self.after) and self.after not in _FUNCTION


def is_noun_phrase(text: str) -> bool:
    """Return whether a text is an English noun phrase; False in any doubt.

    >>> is_noun_phrase("the green ball"), is_noun_phrase("the ball left of the blue box")
    (True, True)
    >>> is_noun_phrase("the ball rolls"), is_noun_phrase("who left?"), is_noun_phrase("la pelota")
    (False, False, False)
    """
    text = " ".join(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    words = _WORD.findall(text) if _TEXT.fullmatch(text) else []
    if not 1 <= len(words) <= MAX_WORDS or words[0] in _PREPOSITIONS - _ADJECTIVES:
        return False
    if all(word in _MODIFIERS and word not in _NOUNS for word in words) and "one" not in words[1:]:
        return False  # no noun
    befores, afters = ["", *words], [*words[1:], ""]
    if any(_may_be_verb(_Word(*near)) for near in zip(words, befores, afters)):
        return False
    if words[0] in _DETERMINERS:
        return True
    return all(map(_is_known, words)) and any(word in _NOUNS | _NOUN_PLURALS for word in words)


def _may_be_verb(near: _Word) -> bool:
    """Whether a word may say that something happens."""
    word, last = near.word, near.word.rsplit("-", 1)[-1]
    if word in _NEVER or re.search(r"n't$|'(?:ll|re|ve|d|m)$", word):
        return True
    if word.endswith("'s"):
        return not near.after or word[:-2] in _NEVER
    if word == "to":
        return near.after not in _DETERMINERS | {"left", "right", "a", "an"}
    if word == "left":
        is_place = near.is_noun or near.before in ("far", "top", "bottom", "upper", "lower")
        return not (is_place or near.after == "of" or (not near.before and near.after))
    if last.endswith("ing") and last not in _ING_NOUNS:
        return True
    if last.endswith("ly") and last not in _LY_WORDS:
        return True
    if word in _HAPPENINGS or (re.search("[ts]ions?$", last) and word not in _STATIC_TION):
        return not near.is_attributive
    if last in _PAST or (last.endswith("ed") and last not in _ED_NOUNS):
        is_compound = last != word and near.after and near.after not in _FUNCTION
        return not (near.is_attributive or is_compound or (word in _NOUNS and near.is_noun))
    if word in _VERBS:
        if near.is_noun or (near.before in _ADJECTIVES and word in _NOUNS):
            is_thing = word in _NOUNS | _ADJECTIVES or near.after == "of"
            return not (is_thing or near.is_attributive)
        if not near.before:
            return word not in _NOUNS or bool(near.after)  # "drink"; but "drink the water"
        return word not in _NOUNS or _is_plural(near.before)
    if near.before in _NOUN_PLURALS and word not in _KNOWN:
        return True  # "the cars honk"
    return _may_be_third_person(near)


def _may_be_third_person(near: _Word) -> bool:
    word = near.word
    if not _is_plural(word) or word in _PLURALS | _S_NOUNS or near.is_noun:
        return False
    if word in _VERB_FORMS:
        return True
    return word not in _NOUN_PLURALS and bool(near.before) and near.before not in _COUNTS


def _is_plural(word: str) -> bool:
    return word in _PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def _is_known(word: str) -> bool:
    word = word.removesuffix("'s")
    parts = word.split("-")
    return word in _KNOWN or all(
        part in _KNOWN or part.isdigit() or len(part) == 1 or part.endswith("ed") for part in parts
    )
