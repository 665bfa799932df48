"""A stylesheet of just the utility classes that a page uses: `p-4` becomes `.p-4{padding:1rem}`.

The names and scales are Tailwind's (a unit of spacing is 0.25rem), of which this knows what pages of tasks and of
WebSight are made of. A class that is not known has no rule, as in the original. Prefixes for widths (`md:`) become
media queries; states that a screenshot never sees (`hover:`) have no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from colbench_jax.render.palette import COLOURS

FONT = "'DejaVu Sans',Verdana,sans-serif"
WIDTHS = {'sm': 640, 'md': 768, 'lg': 1024, 'xl': 1280, '2xl': 1536}  # px, the least of each prefix

# What browsers do to bare elements, undone: without margins, with boxes that include their borders.
BASE = (
    '*,::before,::after{box-sizing:border-box;border:0 solid #e5e7eb}'
    f'html{{line-height:1.5;font-family:{FONT}}}'
    'body,h1,h2,h3,h4,h5,h6,p,ul,ol,dl,dd,figure,blockquote,pre,hr{margin:0;padding:0}'
    'h1,h2,h3,h4,h5,h6{font-size:inherit;font-weight:inherit}'
    'ul,ol{list-style:none}a{color:inherit;text-decoration:inherit}'
    'img,svg,video{display:block;vertical-align:middle;max-width:100%;height:auto}'
    'table{border-collapse:collapse;text-indent:0}b,strong{font-weight:bolder}'
    'button,input,select,textarea{font:inherit;color:inherit;margin:0;padding:0}button{background:transparent}'
)

_SIZES = {  # rem, and the height of a line
    'xs': (0.75, '1rem'),
    'sm': (0.875, '1.25rem'),
    'base': (1, '1.5rem'),
    'lg': (1.125, '1.75rem'),
    'xl': (1.25, '1.75rem'),
    '2xl': (1.5, '2rem'),
    '3xl': (1.875, '2.25rem'),
    '4xl': (2.25, '2.5rem'),
    '5xl': (3, '1'),
    '6xl': (3.75, '1'),
    '7xl': (4.5, '1'),
    '8xl': (6, '1'),
    '9xl': (8, '1'),
}
PIXELS = {f'text-{name}': round(16 * size) for name, (size, _) in _SIZES.items()}  # of a font, by class

_WHOLE = {
    'hidden': 'display:none',
    'italic': 'font-style:italic',
    'underline': 'text-decoration:underline',
    'no-underline': 'text-decoration:none',
    'line-through': 'text-decoration:line-through',
    'uppercase': 'text-transform:uppercase',
    'lowercase': 'text-transform:lowercase',
    'capitalize': 'text-transform:capitalize',
    'truncate': 'overflow:hidden;text-overflow:ellipsis;white-space:nowrap',
    'whitespace-nowrap': 'white-space:nowrap',
    'container': 'width:100%;max-width:1280px',
    'flex-row': 'flex-direction:row',
    'flex-row-reverse': 'flex-direction:row-reverse',
    'flex-col': 'flex-direction:column',
    'flex-col-reverse': 'flex-direction:column-reverse',
    'flex-wrap': 'flex-wrap:wrap',
    'flex-nowrap': 'flex-wrap:nowrap',
    'flex-1': 'flex:1 1 0%',
    'flex-auto': 'flex:1 1 auto',
    'flex-none': 'flex:none',
    'grow': 'flex-grow:1',
    'flex-grow': 'flex-grow:1',
    'shrink-0': 'flex-shrink:0',
    'flex-shrink-0': 'flex-shrink:0',
    'list-disc': 'list-style-type:disc',
    'list-decimal': 'list-style-type:decimal',
    'list-none': 'list-style-type:none',
    'list-inside': 'list-style-position:inside',
    'border-collapse': 'border-collapse:collapse',
    'antialiased': '-webkit-font-smoothing:antialiased',
    'transparent': 'color:transparent',
    'bg-cover': 'background-size:cover',
    'bg-contain': 'background-size:contain',
    'bg-center': 'background-position:center',
    'bg-no-repeat': 'background-repeat:no-repeat',
    'bg-transparent': 'background-color:transparent',
}
for _name in ('block', 'inline', 'inline-block', 'flex', 'inline-flex', 'grid', 'table', 'contents'):
    _WHOLE[_name] = f'display:{_name}'
for _name in ('static', 'relative', 'absolute', 'fixed', 'sticky'):
    _WHOLE[_name] = f'position:{_name}'
for _name in ('left', 'center', 'right', 'justify'):
    _WHOLE[f'text-{_name}'] = f'text-align:{_name}'
for _name in ('auto', 'hidden', 'visible', 'scroll'):
    _WHOLE[f'overflow-{_name}'] = f'overflow:{_name}'
for _name in ('contain', 'cover', 'fill'):
    _WHOLE[f'object-{_name}'] = f'object-fit:{_name}'

_SIDES = {'x': ('left', 'right'), 'y': ('top', 'bottom'), 't': ('top',), 'b': ('bottom',)}
_SIDES |= {'l': ('left',), 'r': ('right',), '': ('',)}
_FLEX = {'start': 'flex-start', 'end': 'flex-end', 'between': 'space-between', 'around': 'space-around'}
_FLEX |= {'evenly': 'space-evenly', 'center': 'center', 'stretch': 'stretch', 'baseline': 'baseline'}
_WEIGHTS = dict(thin=100, light=300, normal=400, medium=500, semibold=600, bold=700, extrabold=800, black=900)
_RADII = {'': '0.25', 'none': '0', 'sm': '0.125', 'md': '0.375', 'lg': '0.5', 'xl': '0.75', '2xl': '1', '3xl': '1.5'}
_SHADOWS = {'sm': '0 1px 2px', '': '0 1px 3px', 'md': '0 4px 6px', 'lg': '0 10px 15px', 'xl': '0 20px 25px'}
_SHADOWS |= {'2xl': '0 25px 50px'}
_WIDEST = {'xs': 20, 'sm': 24, 'md': 28, 'lg': 32, 'xl': 36, '2xl': 42, '3xl': 48, '4xl': 56, '5xl': 64, '6xl': 72}
_WIDEST |= {'7xl': 80}  # rem
_LEADING = {'none': 1, 'tight': 1.25, 'snug': 1.375, 'normal': 1.5, 'relaxed': 1.625, 'loose': 2}
_TRACKING = {'tighter': -0.05, 'tight': -0.025, 'normal': 0, 'wide': 0.025, 'wider': 0.05, 'widest': 0.1}  # em
_FAMILIES = {'sans': FONT, 'serif': "'DejaVu Serif',Georgia,serif", 'mono': "'DejaVu Sans Mono',monospace"}


def classes_of(html: str) -> list[str]:
    """The classes that a page names, each once, in their order."""
    found: dict[str, None] = {}
    for double, single, bare in re.findall(r'\bclass\s*=\s*(?:"([^"]*)"|\'([^\']*)\'|([^\s"\'>]+))', html, re.I):
        found |= dict.fromkeys((double or single or bare).split())
    return list(found)


def compiled(html: str) -> str:
    """The stylesheet of a page: BASE, then a rule for each class that is known, narrow prefixes before wide ones."""
    return BASE + ''.join(rules(classes_of(html)))


def rules(names: Iterable[str]) -> list[str]:
    """CSS rules in the order in which they override each other: whole boxes before sides, no prefix before `sm:`."""
    found = []
    for name in names:
        *prefixes, bare = name.split(':')
        if any(prefix not in WIDTHS for prefix in prefixes):
            continue
        body = declarations(bare)
        if body is None:
            continue
        selector = '.' + re.sub(r'([^\w-])', r'\\\1', name)
        if selector[1].isdigit():
            selector = f'.\\3{selector[1]} {selector[2:]}'
        if bare.startswith(('space-', 'divide-')):
            selector += '>*+*'
        width = max((WIDTHS[prefix] for prefix in prefixes), default=0)
        rule = f'{selector}{{{body}}}'
        found.append((width, _rank(bare), name, f'@media(min-width:{width}px){{{rule}}}' if width else rule))
    return [rule for *_, rule in sorted(found)]


def _rank(name: str) -> int:
    """Sides override pairs of sides, which override the whole; a line's height overrides that of a font's size."""
    kind = re.fullmatch(r'-?(?:[mp]|border|rounded|space)([xytblr]?)(?:-.*)?', name)
    if kind and kind.group(1):
        return 2 if kind.group(1) in 'tblr' else 1
    return 1 if re.match(r'(border-[tblr]|rounded-[tblr]|leading-|inset-[xy]|overflow-[xy]|col-)', name) else 0


def declarations(name: str) -> str | None:
    """The CSS of one class without its prefixes, None where there is no such class."""
    if name in _WHOLE:
        return _WHOLE[name]
    for pattern, make in _PATTERNS:
        match = pattern.fullmatch(name)
        if match and (body := make(*match.groups(''))) is not None:
            return body
    return None


def _length(text: str) -> str | None:
    """'4' -> 1rem, '1/2' -> 50%, 'full', 'px', 'auto', '[12px]'."""
    words = {'px': '1px', 'full': '100%', 'auto': 'auto', 'screen': '100vh', 'min': 'min-content', 'max': 'max-content'}
    if text in words:
        return words[text]
    if match := re.fullmatch(r'(\d+)/(\d+)', text):
        return f'{100 * int(match[1]) / int(match[2]):.6g}%' if int(match[2]) else None
    if re.fullmatch(r'\d+(\.5)?', text) and float(text) <= 400:
        return f'{float(text) / 4:g}rem'
    match = re.fullmatch(r'\[(\d+(?:\.\d+)?(?:px|rem|em|%|vh|vw))\]', text)
    return match[1] if match else None


def _colour(name: str, opacity: str = '') -> str | None:
    value = COLOURS.get(name)
    if value is None and (match := re.fullmatch(r'\[(#[0-9a-fA-F]{6})\]', name)):
        value = match[1].lower()
    if value is None or not opacity:
        return value
    return f'{value}{round(255 * min(100, int(opacity)) / 100):02x}'


def _box(what: str):
    """margin or padding; a leading minus is a negative margin."""

    def make(sign: str, side: str, amount: str) -> str | None:
        length = _length(amount)
        if length is None or (sign and (what == 'padding' or length == 'auto')):
            return None
        names = [f'{what}-{edge}' if edge else what for edge in _SIDES[side]]
        return ';'.join(f'{name}:{sign}{length}' for name in names)

    return make


def _one(*properties: str):
    """Properties that are a length."""

    def make(amount: str) -> str | None:
        length = _length(amount)
        return length and ';'.join(f'{name}:{length}' for name in properties)

    return make


def _paint(*properties: str):
    """Properties that are a colour, perhaps with an opacity in per cent."""

    def make(name: str, opacity: str) -> str | None:
        colour = _colour(name, opacity)
        return colour and ';'.join(f'{each}:{colour}' for each in properties)

    return make


def _table(prefix: str, values: dict, unit: str = ''):
    return lambda name: f'{prefix}:{values[name]}{unit}' if name in values else None


def _font_size(name: str) -> str | None:
    return f'font-size:{_SIZES[name][0]:g}rem;line-height:{_SIZES[name][1]}' if name in _SIZES else None


def _corners(side: str, name: str) -> str | None:
    radius = '9999px' if name == 'full' else f'{_RADII[name]}rem' if name in _RADII else None
    pairs = {'t': ('top-left', 'top-right'), 'b': ('bottom-left', 'bottom-right')}
    pairs |= {'l': ('top-left', 'bottom-left'), 'r': ('top-right', 'bottom-right')}
    names = [f'border-{corner}-radius' for corner in pairs[side]] if side else ['border-radius']
    return radius and ';'.join(f'{each}:{radius}' for each in names)


def _border(side: str, width: str) -> str:
    names = [f'border-{edge}-width' if edge else 'border-width' for edge in _SIDES[side]]
    return ';'.join(f'{name}:{width or 1}px' for name in names)


def _space(axis: str, amount: str) -> str | None:
    length = _length(amount)
    return length and f'margin-{"left" if axis == "x" else "top"}:{length}'


def _columns(count: str) -> str:
    return f'grid-template-columns:repeat({count},minmax(0,1fr))'


_HUE = r'((?:[a-z]+-\d{2,3}|white|black|\[#[0-9a-fA-F]{6}\]))(?:/(\d{1,3}))?'
_PATTERNS = [
    (re.compile(pattern), make)
    for pattern, make in (
        (r'(-?)p([xytblr]?)-(.+)', _box('padding')),
        (r'(-?)m([xytblr]?)-(.+)', _box('margin')),
        (r'w-screen', lambda: 'width:100vw'),
        (r'w-(.+)', _one('width')),
        (r'h-(.+)', _one('height')),
        (r'min-h-(.+)', _one('min-height')),
        (r'max-h-(.+)', _one('max-height')),
        (r'min-w-(.+)', _one('min-width')),
        (r'max-w-(\w+)', _table('max-width', _WIDEST, 'rem')),
        (r'max-w-(.+)', _one('max-width')),
        (r'gap-([^xy].*)', _one('gap')),
        (r'gap-x-(.+)', _one('column-gap')),
        (r'gap-y-(.+)', _one('row-gap')),
        (r'(top|bottom|left|right)-(.+)', lambda edge, amount: _one(edge)(amount)),
        (r'inset-(.+)', _one('inset')),
        (r'space-([xy])-(.+)', _space),
        (r'divide-y', lambda: 'border-top-width:1px'),
        (r'grid-cols-(\d{1,2})', _columns),
        (r'col-span-(\d{1,2})', lambda count: f'grid-column:span {count}/span {count}'),
        (r'col-span-full', lambda: 'grid-column:1/-1'),
        (r'justify-(\w+)', _table('justify-content', _FLEX)),
        (r'items-(\w+)', _table('align-items', _FLEX)),
        (r'self-(\w+)', _table('align-self', _FLEX)),
        (r'font-(\w+)', _table('font-weight', _WEIGHTS)),
        (r'font-(\w+)', _table('font-family', _FAMILIES)),
        (r'text-(\w+)', _font_size),
        (r'leading-(\w+)', _table('line-height', _LEADING)),
        (r'leading-(\d+)', _one('line-height')),
        (r'tracking-(\w+)', _table('letter-spacing', _TRACKING, 'em')),
        (rf'text-{_HUE}', _paint('color')),
        (rf'bg-{_HUE}', _paint('background-color')),
        (rf'(?:border|divide)-{_HUE}', _paint('border-color')),
        (r'border(?:-([tblrxy]))?(?:-(\d))?', _border),
        (r'rounded(?:-([tblr]))?(?:-(\w+))?', _corners),
        (
            r'shadow(?:-(\w+))?',
            lambda name: f'box-shadow:{_SHADOWS[name]} #0000001a' if name in _SHADOWS else None,
        ),
        (r'opacity-(\d{1,3})', lambda percent: f'opacity:{int(percent) / 100:g}'),
        (r'z-(\d+)', lambda level: f'z-index:{level}'),
        (r'order-(\d+)', lambda place: f'order:{place}'),
    )
]
