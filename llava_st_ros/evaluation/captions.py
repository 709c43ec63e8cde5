"""Scores of captions: METEOR, CIDEr and ROUGE-L, as papers report them.

CIDEr and ROUGE-L are pycocoevalcap's, METEOR is the METEOR 1.5 program that it contains, and words
are those of the Penn Treebank tokenizer that it contains. The two programs need Java. Without it
words are split by a simple rule and METEOR is left out; such figures have another convention's
name. (METEOR of nltk is another implementation with other values, so it is not offered.) No figure
depends on the locale of the environment.

=========== ================================================================ ==========
figure      what it is                                                       range
=========== ================================================================ ==========
METEOR 1.5  words that match exactly, by stem, synonym or paraphrase         0 to 1
CIDEr       similarity of 1- to 4-grams, rare ones count more (CIDEr-D)      0 to 10
ROUGE-L     longest common subsequence, F with beta = 1.2                    0 to 1
=========== ================================================================ ==========

CIDEr is a measure of a set: an n-gram counts by how few of the references contain it. Of a single
sample every n-gram is in every reference, and CIDEr is 0 whatever the caption is. A caption of one
word has no 2- to 4-grams, so that the mean over the four is 2.5 at most. Its values of single
samples depend on the set; a bootstrap interval resamples them as they are.

Sources: github.com/salaniz/pycocoevalcap; METEOR: Denkowski and Lavie 2014; CIDEr: arXiv 1411.5726;
ROUGE-L: Lin 2004.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO

from llava_st_ros.errors import LlavaStError, one_line
from llava_st_ros.evaluation.metric_kinds import MeanMetric, Metric

PTB_WORDS, PLAIN_WORDS = "pycocoevalcap", "plain words"
CAPTION_CONVENTIONS: Mapping[str, str] = {
    PTB_WORDS: "captions in Penn Treebank words: METEOR 1.5, CIDEr-D, ROUGE-L with beta 1.2; a "
    "caption without words is 0",
    PLAIN_WORDS: "captions without Java: words split by a simple rule, not comparable with papers; "
    "CIDEr-D, ROUGE-L with beta 1.2; a caption without words is 0",
}
METEOR, CIDER, ROUGE = "METEOR 1.5 (jar)", "CIDEr", "ROUGE-L"
INSTALL_JAVA = "install Java 8 or later (apt install default-jre-headless)"
INSTALL_SCORERS = "pip install '.[evaluation]' in the source folder"
# English numbers and UTF-8, whatever LC_ALL is: METEOR reads and writes numbers by the locale.
JAVA_OPTIONS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
SECONDS = 600  # for each of the programs; METEOR starts in ten and then scores hundreds a second
# Tokens that pycocoevalcap does not count as words.
PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:-;", "--", "...")
)
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


class CaptionError(LlavaStError):
    """A program that scores captions is missing or has failed."""


@dataclass(frozen=True)
class CaptionScores:
    """The scores of captions.

    Attributes:
        values: The values of each caption, for ``results.Case.values``.
        metrics: The figures, which are means of the values.
        problems: What could not be computed and what to do, one line each.
    """

    values: tuple[Mapping[str, float], ...]
    metrics: tuple[Metric, ...]
    problems: tuple[str, ...] = ()


def score_captions(predicted: Sequence[str], expected: Sequence[Sequence[str]]) -> CaptionScores:
    """Score captions against their references.

    A caption without words (no answer) is 0 in every figure. If no reference has words there are no
    figures.

    Args:
        predicted: The captions.
        expected: The references of each caption, at least one.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        problem = f"captions are not scored: {one_line(error)}: {INSTALL_SCORERS}"
        return CaptionScores(tuple({} for _ in predicted), (), (problem,))
    lines = [*predicted, *(reference for references in expected for reference in references)]
    lines = [one_line_of(line) for line in lines]
    problems, convention = [], PTB_WORDS
    try:
        tokenized = ptb_words(lines)
    except CaptionError as error:
        problems.append(f"METEOR is left out, and words are split by a simple rule: {error}")
        tokenized, convention = [plain_words(line) for line in lines], PLAIN_WORDS
    captions, rest = tokenized[: len(predicted)], iter(tokenized[len(predicted) :])
    references = [[next(rest) for _ in of_one] for of_one in expected]
    columns: dict[str, Sequence[float]] = {}
    by_sample = dict(enumerate(references)), {i: [words] for i, words in enumerate(captions)}
    if any(words for of_one in references for words in of_one):
        columns[CIDER] = Cider().compute_score(*by_sample)[1]
        columns[ROUGE] = Rouge().compute_score(*by_sample)[1]
        if convention == PTB_WORDS:
            try:
                columns[METEOR] = meteor(captions, references)
            except CaptionError as error:
                problems.append(f"METEOR is left out: {error}")
    names = [name for name in (METEOR, CIDER, ROUGE) if name in columns]
    values = tuple(
        {_key(convention, name): float(columns[name][i]) if caption else 0.0 for name in names}
        for i, caption in enumerate(captions)
    )
    metrics = tuple(_metric(convention, name) for name in names)
    return CaptionScores(values, metrics, tuple(problems))


def _key(convention: str, name: str) -> str:
    return f"{convention} {name}"


def _metric(convention: str, name: str) -> Metric:
    return MeanMetric(name, _key(convention, name), convention, "of 10" if name == CIDER else "")


def one_line_of(text: str) -> str:
    """Return a caption as one line of text that the programs can read.

    >>> one_line_of(" a cat\\nsits  ||| here ")
    'a cat sits here'
    """
    text = text.encode("utf-8", "replace").decode().replace("|||", " ").replace("\0", " ")
    return " ".join(text.split())


def plain_words(text: str) -> str:
    """Return the words of a caption in lower case, without punctuation.

    >>> plain_words("The cat's on a T-shirt, isn't it?")
    "the cat's on a t-shirt isn't it"
    """
    return " ".join(_WORD.findall(text.lower()))


def ptb_words(lines: Sequence[str]) -> list[str]:
    """Return the words of each line by the Penn Treebank tokenizer, separated by spaces.

    Args:
        lines: Captions of one line each.

    Raises:
        CaptionError: Java is missing, or the tokenizer has failed.
    """
    jar = _scorers() / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = ["java", *JAVA_OPTIONS, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    # A line without words would be lost at the end of the output.
    text = "".join(f"{line or '.'}\n" for line in lines)
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=SECONDS, check=True
        )
    except FileNotFoundError as error:
        raise CaptionError("there is no java", INSTALL_JAVA) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise CaptionError(f"the tokenizer has failed: {one_line(error)}") from error
    found = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if len(found) != len(lines):
        raise CaptionError(f"the tokenizer returned {len(found)} lines for {len(lines)} captions")
    return [" ".join(word for word in line.split() if word not in PUNCTUATION) for line in found]


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return METEOR 1.5 of each caption, in [0, 1]; 0 for one without words.

    Args:
        captions: Words separated by spaces.
        references: The references of each, alike.

    Raises:
        CaptionError: Java is missing, or the program has failed.
    """
    jar = _scorers() / "meteor" / "meteor-1.5.jar"
    command = ["java", *JAVA_OPTIONS, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio"]
    try:
        process = subprocess.Popen(
            [*command, "-l", "en", "-norm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise CaptionError("there is no java", INSTALL_JAVA) from error
    except OSError as error:
        raise CaptionError(f"java cannot be started: {one_line(error)}") from error
    assert process.stdin is not None and process.stdout is not None
    deadline = Timer(SECONDS, process.kill)
    deadline.daemon = True
    deadline.start()
    try:
        scores = []
        for caption, of_one in zip(captions, references):
            if not caption:
                scores.append(0.0)
                continue
            counts = _answer(process.stdin, process.stdout, "SCORE", *of_one, caption)
            score = _answer(process.stdin, process.stdout, "EVAL", counts)
            process.stdout.readline()  # the score of the set, here of one
            scores.append(float(score))
    except (OSError, ValueError) as error:
        raise CaptionError("the METEOR program has failed", f"{one_line(error)}") from error
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()
    return scores


def _answer(stdin: IO[bytes], stdout: IO[bytes], *parts: str) -> str:
    stdin.write((" ||| ".join(parts) + "\n").encode())
    stdin.flush()
    line = stdout.readline().decode().strip()
    if not line:
        raise ValueError("it has ended early")
    return line


def _scorers() -> Path:
    import pycocoevalcap

    return Path(pycocoevalcap.__path__[0])
