"""The names of members that a report may show.

A map keyed by e-mail addresses is an object with unknown names: any name may be personal data. So a name is
shown only if it consists of the words below, which cannot say anything about a person.
"""

import re

_MAX_WORDS = 6
_VOCABULARY = """
account accounts action actions active activity actor added after amount api app application approved
archive archived args array assigned async at attempt attempts attribute attributes authentication base
batch batched before billing body bulk by calendar call callback candidate candidates category cause change
changed changes chunk chunks client code collection column comment comments company complete completed
config configuration connection contact contacts content context count counts create created creation crm
cron currency current cursor custom daemon data date day deal deals default delete deleted deletion
delivered delivery depends description destination details digest do duration email employee employees
enabled end ended engagement entity environment error errors event events execution expires expiry ext
external failed fast fetch fetched field fields file files filter filters final finished first flag folder
force format from full get graph group groups guid handling has hash header headers history hris id
identifier ids ignore in incremental index info initial input installed integrated integration interval
invoice is issue item items job jobs jwt key keys kind label labels last lead leads length level limit link
linked links list load locale location log logs lookup loop mapped mapping match max message meta metadata
method methods mime min mode model modified more mutex name names namespace nested new next node nodes not
note notes notification num number object objects of offset old on operation options order org organization
origin original output override owner page pages pagination parameters params parent partial partition
passthrough path pattern payload per persist persisted persistent phone position post prefix previous
primary priority process processed product progress project properties property provider proxy query queue
rapid rate raw read reason received record records ref reference region remaining remote request requests
required reset resource resources response result results resume resumed retries retry retryable role root
row rows rule run running runs sandbox schedule schema schemas scope search secret segment send sent
sequence service session set settings setup sha signature since size skip skipped slug sort source sources
spec stage start started state stats status step steps stop stopped store strategy stream string subject
subscription success successful summary sync system table tag tags target task tasks team template tenant
test text threshold ticket ticketing tickets time timeout timestamp timezone title to token total trace
transaction transform trigger triggered truncated truto type types unified unit unknown unmapped until
update updated updates uploaded upsert uri url urls user users utc uuid v1 v2 v3 v4 valid validation value
values variable variables vendor version warning warnings webhook webhooks window workflow workspace write
zone
"""
_WORDS = frozenset(_VOCABULARY.split())
_MAX_CHARS = 80
_SEPARATORS = str.maketrans("", "", "_-")
# The words of snake_case, kebab-case and camelCase.
_WORD = re.compile(r"[A-Z]?[a-z]+(?:(?<=v)[1-4])?|[A-Z]+(?![a-z])")


def is_known_name(name: str) -> bool:
    """Whether a report may show the name of a member."""
    if len(name) > _MAX_CHARS:
        return False
    words = _WORD.findall(name)
    return (
        0 < len(words) <= _MAX_WORDS
        and "".join(words) == name.translate(_SEPARATORS)
        and _WORDS.issuperset(map(str.lower, words))
    )
