"""Write the do-no-harm suite: problems that lie off the target of compression, one file a check.

The files are what counts; this program keeps them easy to change. Every draw has the same seed, so the same program
writes the same files.

    python scripts/off_target_suite.py
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from efficient_reasoning.files import write_jsonl

FOLDER = Path(__file__).parents[1] / "efficient_reasoning" / "assets" / "off_target"

# Per language: apples bought, kilometres travelled, candies shared, change given.
LANGUAGES = {
    "de": (
        "Tom hat {a} Äpfel und kauft {b} dazu. Wie viele Äpfel hat er jetzt? Antworte mit einer Zahl.",
        "Ein Zug fährt {c} Stunden mit {v} km/h. Wie viele Kilometer fährt er? Antworte mit einer Zahl.",
        "{n} Bonbons werden gerecht an {c} Kinder verteilt. Wie viele bekommt jedes? Antworte mit einer Zahl.",
        "Ein Buch kostet {b} Euro, Anna zahlt mit {p} Euro. Wie viel bekommt sie zurück? Antworte mit einer Zahl.",
    ),
    "fr": (
        "Tom a {a} pommes et en achète {b} de plus. Combien de pommes a-t-il maintenant ? Réponds par un nombre.",
        "Un train roule {c} heures à {v} km/h. Combien de kilomètres parcourt-il ? Réponds par un nombre.",
        "On partage {n} bonbons entre {c} enfants à parts égales. Combien en reçoit chacun ? Réponds par un nombre.",
        "Un livre coûte {b} euros, Anna paie avec {p} euros. Combien d'euros lui rend-on ? Réponds par un nombre.",
    ),
    "es": (
        "Tom tiene {a} manzanas y compra {b} más. ¿Cuántas manzanas tiene ahora? Responde con un número.",
        "Un tren viaja {c} horas a {v} kilómetros por hora. ¿Cuántos kilómetros recorre? Responde con un número.",
        "Se reparten {n} caramelos por igual entre {c} niños. ¿Cuántos recibe cada uno? Responde con un número.",
        "Un libro cuesta {b} euros y Ana paga con {p} euros. ¿Cuántos euros le devuelven? Responde con un número.",
    ),
    "pt": (
        "Tom tem {a} maçãs e compra mais {b}. Quantas maçãs tem agora? Responde com um número.",
        "Um comboio viaja {c} horas a {v} quilómetros por hora. Quantos quilómetros percorre? Responde com um número.",
        "{n} rebuçados são divididos igualmente por {c} crianças. Quantos recebe cada uma? Responde com um número.",
        "Um livro custa {b} euros e a Ana paga com {p} euros. Quantos euros recebe de troco? Responde com um número.",
    ),
    "it": (
        "Tom ha {a} mele e ne compra altre {b}. Quante mele ha adesso? Rispondi con un numero.",
        "Un treno viaggia {c} ore a {v} chilometri all'ora. Quanti chilometri percorre? Rispondi con un numero.",
        "{n} caramelle sono divise in parti uguali tra {c} bambini. Quante ne riceve ognuno? Rispondi con un numero.",
        "Un libro costa {b} euro e Anna paga con {p} euro. Quanti euro riceve di resto? Rispondi con un numero.",
    ),
    "ru": (
        "У Тома {a} яблок, и он покупает ещё {b}. Сколько яблок у него теперь? Ответь числом.",
        "Поезд едет {c} ч со скоростью {v} км/ч. Сколько километров он проезжает? Ответь числом.",
        "{n} конфет поделили поровну между детьми, их {c}. Сколько конфет получил каждый? Ответь числом.",
        "Книга стоит {b} евро, Анна даёт {p} евро. Сколько евро сдачи она получит? Ответь числом.",
    ),
    "zh": (
        "汤姆有{a}个苹果，又买了{b}个。他现在有多少个苹果？请用一个数字回答。",
        "一列火车以每小时{v}公里的速度行驶了{c}小时。它行驶了多少公里？请用一个数字回答。",
        "把{n}颗糖平均分给{c}个孩子，每个孩子得到几颗？请用一个数字回答。",
        "一本书{b}元，安娜付了{p}元，应找回多少元？请用一个数字回答。",
    ),
    "ja": (
        "トムはりんごを{a}個持っていて、さらに{b}個買いました。今、りんごは何個ありますか。数字で答えてください。",
        "電車が時速{v}キロで{c}時間走りました。何キロ走りましたか。数字で答えてください。",
        "{n}個のあめを{c}人の子どもに同じ数ずつ分けます。一人何個もらえますか。数字で答えてください。",
        "本は{b}ユーロで、アンナは{p}ユーロ払いました。おつりは何ユーロですか。数字で答えてください。",
    ),
}

TOOLS = {
    "get_weather": ({"city": "string", "days": "integer"}, "How is the weather in {city} for the next {n} days?"),
    "send_message": ({"to": "string", "text": "string"}, 'Send {name} the message "{text}".'),
    "set_timer": ({"minutes": "integer", "repeat": "boolean"}, "Start a timer of {n} minutes{repeat}."),
    "convert_currency": ({"amount": "number", "from": "string", "to": "string"}, "How many {to} are {n}.5 {from}?"),
    "add_to_list": ({"list": "string", "items": "list of strings"}, "Put {one}, then {two}, on the list {list}."),
    "book_table": (
        {"name": "string", "people": "integer", "time": "string, HH:MM of 24 hours"},
        "Book a table for {n} people at {hour}:30 in the afternoon, in the name of {name}.",
    ),
}  # fmt: skip


def languages(rng: random.Random) -> list[dict]:
    """Word problems of one step in eight languages."""
    problems = []
    for language, templates in LANGUAGES.items():
        for kind, template in enumerate(templates):
            a, b, c, v = rng.randint(12, 48), rng.randint(11, 39), rng.randint(3, 9), rng.randrange(40, 110, 5)
            # Below 1,000: languages part thousands with points, commas or blanks.
            n, p = c * rng.randint(4, 15), 50
            question = template.format(a=a, b=b, c=c, v=v, n=n, p=p)
            problems.append(_problem(question, (a + b, c * v, n // c, p - b)[kind], language=language))
    return problems


def tool_calls(rng: random.Random) -> list[dict]:
    """Four tools to choose from, one call to make."""
    problems = []
    for name in [*TOOLS] * 4:
        city, person = rng.choice(("Oslo", "Lima", "Cairo", "Kyoto")), rng.choice(("Maria", "Ken", "Amina", "Paul"))
        n, hour, repeat = rng.randint(2, 9), rng.randint(1, 6), rng.random() < 0.5
        text = rng.choice(("I am on my way.", "See you at noon", "The meeting is off!"))
        start, end = rng.sample(("EUR", "USD", "JPY", "BRL"), 2)
        one, two = rng.sample(("milk", "rice", "soap", "salt"), 2)
        shelf = rng.choice(("groceries", "party"))
        request = TOOLS[name][1].format(
            city=city, n=n, name=person, text=text, repeat=", again and again" if repeat else ", once",
            one=one, two=two, list=shelf, hour=hour, **{"from": start, "to": end},
        )  # fmt: skip
        arguments = {
            "get_weather": {"city": city, "days": n},
            "send_message": {"to": person, "text": text},
            "set_timer": {"minutes": n, "repeat": repeat},
            "convert_currency": {"amount": n + 0.5, "from": start, "to": end},
            "add_to_list": {"list": shelf, "items": [one, two]},
            "book_table": {"name": person, "people": n, "time": f"{hour + 12}:30"},
        }[name]
        offered = [name, *rng.sample([other for other in TOOLS if other != name], 3)]
        rng.shuffle(offered)
        tools = "\n".join(json.dumps({"name": tool, "parameters": TOOLS[tool][0]}) for tool in offered)
        question = (
            f"You can call these tools:\n{tools}\nAnswer the request with one call, a JSON object "
            f'{{"name": ..., "arguments": {{...}}}} and nothing else.\nRequest: {request}'
        )
        problems.append(_problem(question, json.dumps({"name": name, "arguments": arguments}), task="json"))
    return problems


def multi_turn(rng: random.Random) -> list[dict]:
    """What was said before is needed; and a quarter of the time it was corrected."""
    problems = []
    for kind in [0, 1, 2, 3] * 6:
        a, b, c = rng.randint(30, 60), rng.randint(4, 9), rng.randint(11, 25)
        name = rng.choice(("Mia", "Leo", "Zoe", "Ali"))
        turns, question, answer = (
            (
                [f"My budget for today is {a} euros. Remember it.", f"Understood: {a} euros."],
                f"Lunch costs {b} euros and a ticket {c} euros. How many euros are left? Answer with a number.",
                a - b - c,
            ),
            (
                [f"Let x be {b}.", f"All right, x is {b}.", f"And let y be {c}.", f"All right, y is {c}."],
                "What is x times y? Answer with a number.",
                b * c,
            ),
            (
                [f"{name} has {a} stamps.", f"Noted: {a} stamps.", f"No, it is {c}.", f"Corrected: {c} stamps."],
                f"{name} gets {b} more. How many stamps is that? Answer with a number.",
                c + b,
            ),
            (
                [f"How much is {b} + {c}?", f"{b} + {c} = {b + c}", "And twice as much?", f"{2 * (b + c)}"],
                "Now subtract 10. Answer with a number.",
                2 * (b + c) - 10,
            ),
        )[kind]  # fmt: skip
        roles = ("user", "assistant") * 2
        earlier = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
        problems.append(_problem(question, answer, earlier_turns=earlier))
    return problems


def abstention(rng: random.Random) -> list[dict]:
    """Questions that lack a number, each beside a twin that has it: to say "unknown" always is right half the time."""
    problems = []
    # Without its number a question must still be like no other.
    for kind, a, c in zip([0, 1, 2, 3] * 4, rng.sample(range(12, 41), 16), rng.sample(range(2, 20), 16), strict=True):
        b = rng.randint(3, 11)
        known, asked, answer = (
            (f"Ben has {a} marbles. He loses {{}} of them.", "How many marbles has he left?", a - b),
            (f"A box holds {{}} pens, and Rosa buys {c} boxes.", "How many pens does she buy?", b * c),
            (f"Kim is {a} years old. Her brother is {{}} years younger.", "How old is her brother?", a - b),
            (f"A rope of {a} metres is cut in two. One part has {{}} metres.", "How many has the other?", a - b),
        )[kind]  # fmt: skip
        for told, gold in ((b, answer), ("some", "unknown")):
            question = (
                f"{known.format(told)} {asked} Answer with a JSON object such as "
                '{"answer": 7}, or {"answer": "unknown"} where what is given does not tell.'
            )
            problems.append(
                _problem(question, json.dumps({"answer": gold}), task="json", answerable=gold != "unknown")
            )
    return problems


def no_thinking(rng: random.Random) -> list[dict]:
    """What needs no thought."""
    facts = {
        "How many days are in a week?": 7,
        "How many months are in a year?": 12,
        "How many legs does a spider have?": 8,
        "How many sides does a triangle have?": 3,
        "How many minutes are in an hour?": 60,
        "How many letters are in the English alphabet?": 26,
        "How many wheels does a bicycle have?": 2,
        "How many degrees are in a right angle?": 90,
        "How many centimetres are in a metre?": 100,
        "How many players of one team are on a football field?": 11,
        "At how many degrees Celsius does water freeze?": 0,
        "How many cards are in a standard deck without jokers?": 52,
    }
    sums = {}
    while len(sums) < 12:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        sums |= {f"What is {a} + {b}?": a + b} if len(sums) % 2 else {f"What is {a} times {b}?": a * b}
    return [_problem(f"{question} Answer with a number.", answer) for question, answer in (facts | sums).items()]


def other_tasks(rng: random.Random) -> list[dict]:
    """Words, lists, calendars and systems of numbers."""
    words = ("strawberry", "committee", "balloon", "pepper", "assessment", "parallel", "tomorrow", "banana")
    romans = {14: "XIV", 29: "XXIX", 46: "XLVI", 67: "LXVII", 92: "XCII"}

    def letters() -> tuple[str, object]:
        word = rng.choice(words)
        letter = rng.choice(word)
        return f'How often does the letter "{letter}" stand in the word "{word}"? Answer with a number.', word.count(
            letter
        )

    def reverse() -> tuple[str, object]:
        word = rng.choice(words)
        return f'Write the word "{word}" backwards. Answer with that one word and nothing else.', word[::-1]

    def largest() -> tuple[str, object]:
        numbers = rng.sample(range(100, 999), 6)
        return f"Which is the largest of {', '.join(map(str, numbers))}? Answer with a number.", max(numbers)

    def first() -> tuple[str, object]:
        some = rng.sample(words, 4)
        return (
            f"Which comes first in the alphabet: {', '.join(some)}? Answer with that one word and nothing else.",
            min(some),
        )

    def weekday() -> tuple[str, object]:
        day, later = date(2024, 1, 1) + timedelta(rng.randrange(7)), rng.randint(8, 30)
        asked = f"Today is {day:%A}. Which day of the week is it in {later} days?"
        return f"{asked} Answer with that one word and nothing else.", f"{day + timedelta(later):%A}"

    def binary() -> tuple[str, object]:
        number = rng.randint(9, 60)
        return f"Which decimal number is {number:b} in binary? Answer with a number.", number

    def roman() -> tuple[str, object]:
        number = rng.choice([*romans])
        return f"Which number is {romans[number]} in Roman numerals? Answer with a number.", number

    def sequence() -> tuple[str, object]:
        start, step = rng.randint(2, 20), rng.randint(3, 9)
        shown = ", ".join(str(start + step * i) for i in range(4))
        return f"Which number comes next: {shown}? Answer with a number.", start + 4 * step

    makers: list[Callable] = [letters, reverse, largest, first, weekday, binary, roman, sequence]
    drawn: dict[str, object] = {}
    while len(drawn) < 32:
        question, answer = makers[len(drawn) % len(makers)]()
        drawn.setdefault(question, answer)
    return [_problem(question, answer) for question, answer in drawn.items()]


def _problem(question: str, answer: object, task: str | None = None, **metadata: object) -> dict:
    task = task or ("exact" if isinstance(answer, str) else "numeric")
    return {"question": question, "answer": str(answer), "task": task, **({"metadata": metadata} if metadata else {})}


def main() -> None:
    for check in (languages, tool_calls, multi_turn, abstention, no_thinking, other_tasks):
        name = check.__name__
        problems = [{"id": f"{name}-{n}", **row} for n, row in enumerate(check(random.Random(name)))]
        print(f"{write_jsonl(FOLDER / f'{name}.jsonl', problems)} {name}")


if __name__ == "__main__":
    main()
