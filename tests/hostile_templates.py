"""Chat templates that would take for ever, fill the memory or the log, or get out of their sandbox."""

from __future__ import annotations

HOSTILE = {
    "an endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that writes": "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "an endless filter": "{{ range(99999) | map('string') | list | product | length }}",
    "a number with a billion digits": "{{ '%999999999d' | format(1) }}",
    "a width of a billion": "{{ '{:>9999999999}'.format(1) }}",
    "a width from a variable": "{{ '%*d' | format(9999999999, 1) }}",
    "a long string": "{{ 'a' * 10**10 }}",
    "doubling": "{% set ns = namespace(a='a') %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "centred": "{{ 'a' | center(10**10) }}",
    "indented": "{{ ('a\n' * 10**5) | indent(10**6) }}",
    "padded": "{{ 'a'.ljust(10**10) ~ 'b'.zfill(10**10) }}",
    "tabs": "{{ ('\t' * 10**5).expandtabs(10**6) }}",
    "replaced": "{{ ('a' * 10**5).replace('', 'b' * 10**6) }}",
    "a long list": "{{ ([1] * 10**10) | length }}",
    "nested lists": "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "attributes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "attributes by filter": "{{ (messages | attr('__class__')).mro() }}",
    "attributes by map": "{{ [''] | map(attribute='__class__') | map(attribute='__base__') | list | first | call }}",
    "insides of a function": "{{ raise_exception.__globals__['json'].loads.__globals__ }}",
    "insides of a namespace": "{{ namespace(__class__=1) }}",
    "insides of a macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "a changed list": "{{ messages.append(messages) }}",
    "a macro without end": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "a loop into itself": "{% for a in [messages] recursive %}{{ loop([a]) }}{% endfor %}",
    "a big power": "{{ (10 ** (10 ** 10)) % 7 }}",
    "a tower of powers": "{{ 9 ** (9 ** 9) > 1 }}",
    "a big number's text": "{{ (7 ** 99999) | string }}",
    "a file": "{% include '/etc/passwd' %}",
    "another module": "{% import 'os' as os %}{{ os.system('true') }}",
}
"""Each must end with a refusal."""
FORMATS = ("{{ '{0.__class__}'.format(messages) }}", "{{ '{a.__init__.__globals__}'.format(a=raise_exception) }}")
"""These give nothing of what they ask for."""
