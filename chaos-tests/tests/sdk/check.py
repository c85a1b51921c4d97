"""Talks to a gateway with the unmodified OpenAI and Anthropic SDKs: check.py ORIGIN API_KEY MODEL.

Prints one line for each call and ends with 1 if one of them was not answered as its SDK expects.
"""

import sys

import anthropic
import openai

origin, key, model = sys.argv[1:4]
oai = openai.OpenAI(base_url=origin + "/v1", api_key=key, max_retries=0)
ant = anthropic.Anthropic(base_url=origin, api_key=key, max_retries=0)
MESSAGES = [{"role": "user", "content": "say what this is"}]
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
OAI_TOOLS = [{"type": "function", "function": {"name": "look", "description": "looks", "parameters": SCHEMA}}]
ANT_TOOLS = [{"name": "look", "description": "looks", "input_schema": SCHEMA}]


def chat():
    answer = oai.chat.completions.create(model=model, messages=MESSAGES)
    return len(answer.choices[0].message.content.split()), answer.usage.completion_tokens


def chat_stream():
    words, usage = "", None
    options = {"include_usage": True}
    for chunk in oai.chat.completions.create(model=model, messages=MESSAGES, stream=True, stream_options=options):
        if chunk.choices:
            words += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    return len(words.split()), usage.completion_tokens


def chat_stream_without_usage():
    chunks = list(oai.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    return all(chunk.usage is None and chunk.choices for chunk in chunks), True


def chat_tools_stream():
    with oai.chat.completions.stream(model=model, messages=MESSAGES, tools=OAI_TOOLS, tool_choice="required") as stream:
        message = stream.get_final_completion().choices[0].message
    return message.tool_calls[0].function.name, "look"


def completions():
    answer = oai.completions.create(model=model, prompt="hi", max_tokens=3)
    return len(answer.choices[0].text.split()), 3


def embeddings():
    return len(oai.embeddings.create(model=model, input=["a", "b"], encoding_format="float").data), 2


def responses():
    answer = oai.responses.create(model=model, input="hi there")
    return len(answer.output_text.split()), answer.usage.output_tokens


def responses_stream():
    with oai.responses.stream(model=model, input="hi there") as stream:
        answer = stream.get_final_response()
    return len(answer.output_text.split()), answer.usage.output_tokens


def models():
    return isinstance([each.id for each in oai.models.list()], list), True


def messages():
    answer = ant.messages.create(model=model, max_tokens=8, messages=MESSAGES, system="be brief")
    return len(answer.content[0].text.split()), answer.usage.output_tokens


def messages_stream():
    with ant.messages.stream(model=model, max_tokens=8, messages=MESSAGES) as stream:
        words = "".join(stream.text_stream).split()
        return len(words), stream.get_final_message().usage.output_tokens


def messages_tools_stream():
    choice = {"type": "any"}
    with ant.messages.stream(
        model=model, max_tokens=8, messages=MESSAGES, tools=ANT_TOOLS, tool_choice=choice
    ) as stream:
        answer = stream.get_final_message()
    return (answer.content[0].name, answer.stop_reason), ("look", "tool_use")


def refusals():
    wrong_oai = openai.OpenAI(base_url=origin + "/v1", api_key="wrong", max_retries=0)
    wrong_ant = anthropic.Anthropic(base_url=origin, api_key="wrong", max_retries=0)
    try:
        wrong_oai.chat.completions.create(model=model, messages=MESSAGES)
    except openai.AuthenticationError:
        try:
            wrong_ant.messages.create(model=model, max_tokens=8, messages=MESSAGES)
        except anthropic.AuthenticationError:
            return True, True
    return "no refusal", True


failed = 0
for call in [
    chat, chat_stream, chat_stream_without_usage, chat_tools_stream, completions, embeddings, responses,
    responses_stream, models, messages, messages_stream, messages_tools_stream, refusals,
]:
    try:
        got, expected = call()
        good = got == expected and got != 0
        print("ok  " if good else "FAIL", call.__name__, got, "" if good else f"expected {expected}")
    except Exception as error:  # whatever an SDK does not understand is a failure of that call alone
        good = False
        print("FAIL", call.__name__, type(error).__name__, error)
    failed += not good
sys.exit(1 if failed else 0)
