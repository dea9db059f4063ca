"""Chats and templates that transformers and text/ must render alike."""

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a <city> & \"more\"",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Köln", "東京"]},
                                                    "days": {"type": "integer", "default": 3, "maximum": 1e16}},
                   "required": ["city"], "x": None, "y": True, "z": [1.0, 0.5, -2, 1e-7, {}, []]}}}
TOOLS = [WEATHER, {"type": "function", "function": {"name": "now", "parameters": {}}}]


def message(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}
# (messages, template variables)
CHATS = [
    ([message("user", "hi")], {}),
    ([message("system", "Be brief.\n"), message("user", " spaces \t")], {"enable_thinking": False}),
    ([message("user", "a"), message("assistant", "<think>hm\n</think>\n\nb"), message("user", "c 'q' \"d\"")],
     {"bos_token": "<B>", "custom": {"k": [1, 2.5, None, "x"]}}),
    ([message("user", "weather?"), message("assistant", None, tool_calls=[CALL]),
      message("tool", "{\"t\": 3}", name="get_weather", tool_call_id="c1"), message("tool", "x"),
      message("assistant", "3 degrees")], {}),
    ([message("user", [{"type": "text", "text": "look"}, {"type": "image", "url": "u"}])], {"documents": [{"title": "T", "text": "D"}]}),
    ([message("assistant", "out of turn")], {}),
    ([message("user", "a\r\nb"), message("user", "again")], {"nothing": None}),
    ([message("unheard-of", "🙂 {{ not jinja }} {% nor %} this", weight=0.25)], {}),
]

CHAT_TEMPLATES = [
    # In the way of Qwen 2.5 and 3: tools, tool calls, thinking cut out, a namespace, a reversed walk.
    """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(seeking=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.seeking and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.seeking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and thought %}{{- '<think>' + thought.strip('\\n') + '</think>' }}{%- endif %}
        {{- content }}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    # In the way of Llama 3: defaults by `is defined`, trims, indented JSON, exceptions, a date that may be missing.
    """{{- bos_token }}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's none!") }}
    {%- endif %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one tool-call at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}{{- arg_name + '="' ~ arg_val ~ '"' }}{%- if not loop.last %}, {% endif %}{%- endfor %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{%- endif %}""",
    # In the way of Mistral: alternation enforced, plain blocks whose line ends trim_blocks takes.
    """{{ bos_token }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ '[INST] ' + message['content'] + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {% generation %}
        {{ message['content'] + eos_token}}
        {% endgeneration %}
    {% else %}
        {{ raise_exception('Only user and assistant roles are supported, not ' ~ message.role) }}
    {% endif %}
{% endfor %}
""",
    # Macros, parts of content, loop controls, documents.
    """{%- macro render_content(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is none -%}(none)
  {%- else -%}
    {%- for part in content -%}
      {%- if part.type == 'text' -%}{{ part['text'] }}{%- elif part.type == 'image' -%}<image>{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}{%- continue -%}{%- endif -%}
  {%- if loop.index > 3 -%}{%- break -%}{%- endif -%}
  [{{ message.role | upper }}]{{ render_content(message.content) }}
{% endfor -%}
{% if documents %}{% for document in documents %}
{{ loop.index }}. {{ document.title }}: {{ document['text'] }}
{% endfor %}{% endif %}
{# a comment #}
{% set names = messages | map(attribute='role') | unique | list %}
{{ names | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{% if nothing is defined and nothing is none %}null{% endif %}{{ undefined_thing }}{{ undefined_thing | default('dflt') }}
""",
]

# Rendered once a chat, with tools.
EXPRESSION_TEMPLATES = [
    "{{ messages }}",
    "{{ tools }}",
    "{{ messages | tojson }}|{{ tools | tojson(indent=2) }}|{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}",
    "{{ messages | tojson(ensure_ascii=true) }}",
    "{{ 1 }} {{ 1.0 }} {{ 2.5e20 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ true }} {{ none }}",
    "{{ messages[0] | string | length }} {{ messages | trim }} {{ 'xaxx' | trim('x') }} {{ 1.50 | string }}",
    "{{ [1, 'a', none, true, 1.5, {'k': \"it's\"}] }} {{ (1, 2) | list }} {{ {'a': [], 'b': {}} }}",
    "{{ 'a' ~ 1 ~ true ~ none }} {{ 'x' * 3 }} {{ 'abc'[1:] }} {{ 'abc'[-1] }} {{ 'abc'[::-1] }} {{ 'b' in 'abc' }}",
    "{{ 'Hello World'.lower().replace('o', '0').split(' ') }} {{ ' x '.strip() }}|{{ 'a,b,,c'.split(',') | join('-') }}",
    "{{ 'abc'.upper() }} {{ 'abc'.find('c') }} {{ 'a b'.title() }} {{ 'abc'.endswith('c') }} {{ 'x\ny'.splitlines() }} {{ 'aXbX'.rstrip('X') }}",
    "{{ {'a': 1, 'b': 2}.items() | map('first') | list }} {{ {'a': 1}.get('z', 5) }} {{ {'a': 1}.keys() | list }} {% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}no user{% endfor %}",
    "  {% if true %}\n  x\n  {% endif %}\n{%- if false %}y{% endif -%}\n  z\n",
    "a{% raw %}{{ raw }}{% endraw %}b{{- ' c ' -}} d {#- gone -#} e",
    "{{ messages[0].missing.deeper }}",
    "{{ messages[0].missing }}{{ messages[99] }}{{ none.x }}ok",
    "{{ missing_function() }}",
    "{{ 'x' + 1 }}",
    "{{ messages[0].content + ' end' }}",
    "{{ raise_exception('refused: ' + messages[0].role) }}",
    "{{ messages | first | length }} {{ (messages | last).role }} {{ [3, 1, 2] | sort | join }} {{ [1, 2, 3] | sum }} {{ [1, 5, 2] | max }} {{ '3' | int + 1 }} {{ -3 | abs }}",
    "{{ messages | map(attribute='content') | list }} {{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join(',') }}",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }}{% endfor %} {{ 'abc' | reverse }} {{ 'abc' | capitalize }} {{ '<a>' | e }}",
    "{{ messages is iterable }} {{ messages is mapping }} {{ messages[0] is mapping }} {{ 'x' is string }} {{ 1 is number }} {{ none is none }} {{ true is boolean }} {{ 3 is odd }} {{ messages is sequence }}",
    "{% set x %}block {{ messages | length }}{% endset %}{{ x }}{{ x | length }}",
    "{% macro m(a, b='B') %}{{ a }}{{ b }}{% endmacro %}{{ m('1') }}{{ m('1', b='2') }}{% call m('c') %}{% endcall %}",
    "{% filter upper %}shout{% endfilter %}{{ 'a' if false }}{{ 'b' if true else 'c' }}",
    "{{ custom.k if custom is defined else 'no custom' }} {{ bos_token }} {{ eos_token }} {{ enable_thinking | default(true) }}",
    "{% if messages[0].role not in ['user', 'system'] or not messages %}odd{% else %}fine{% endif %} {{ 1 < 2 < 3 }} {{ 'a' == 'a' and 1 != 2 }}",
    "{{ messages | length > 1 and messages[1].role }} {{ '' or 'fallback' }} {{ not '' }}",
    "{{ '%s-%d' | format('a', 3) }} {{ 'a\\tb' }} {{ \"q'q\" }} {{ 'é' | length }} {{ '🙂' | length }}",
    "{{ [1, 2] + [3] }} {{ [[1, 2], [3]] | map('length') | list }} {{ ['b', 'a'] | sort }} {{ [1, 1, 2] | unique | list }} {{ range(3) | list }}",
]
