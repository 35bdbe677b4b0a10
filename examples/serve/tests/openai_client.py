"""Talks to a server with OpenAI's own client. Argument: the base URL."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)

models = client.models.list().data
assert [model.id for model in models] == ["tiny"], models
assert client.models.retrieve("tiny").id == "tiny"

whole = client.completions.create(model="tiny", prompt="The table has", max_tokens=12, temperature=0)
pieces = client.completions.create(
    model="tiny", prompt="The table has", max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
)
text, usage = "", None
for event in pieces:
    text += "".join(choice.text for choice in event.choices)
    usage = event.usage or usage
assert text == whole.choices[0].text, (text, whole)
assert usage == whole.usage, (usage, whole.usage)

messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a row?"}]
whole = client.chat.completions.create(
    model="tiny", messages=messages, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2, seed=1
)
assert whole.choices[0].message.role == "assistant"
assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
text = ""
for event in client.chat.completions.create(model="tiny", messages=messages, max_tokens=10, temperature=0, stream=True):
    text += event.choices[0].delta.content or ""
assert text == whole.choices[0].message.content, (text, whole)

several = client.completions.create(model="tiny", prompt="a", max_tokens=5, n=3, seed=4, extra_body={"top_k": 40, "min_p": 0.01})
assert [choice.index for choice in several.choices] == [0, 1, 2]

try:
    client.completions.create(model="other", prompt="a")
    raise AssertionError("another model was served")
except openai.NotFoundError as error:
    assert "tiny" in error.message, error
try:
    client.completions.create(model="tiny", prompt="a", temperature=-1)
    raise AssertionError("a negative temperature was taken")
except openai.BadRequestError as error:
    assert "temperature" in error.message, error
