"""Goodput: the requests that kept their limits, of a document of `quire bench --save-detailed`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request must keep to count: seconds to its first token, and its mean seconds a token after it."""

    ttft_s: float
    tpot_s: float

    @property
    def label(self):
        return f"TTFT {self.ttft_s:g} s, TPOT {self.tpot_s * 1e3:g} ms"

    def allow(self, request):
        return request.error == "" and request.ttft_s <= self.ttft_s and request.tpot_s <= self.tpot_s


@dataclass(frozen=True)
class Request:
    start_s: float
    ttft_s: float
    tpot_s: float  # 0 with fewer than two tokens
    output_tokens: int
    error: str


def requests_of(document):
    """Of the JSON object. KeyError: it was written without --save-detailed."""
    columns = (document[name] for name in ("start_times", "ttfts", "itls", "output_lens", "request_errors"))
    return [Request(start, ttft, sum(itls) / (tokens - 1) if tokens > 1 else 0.0, tokens, error)
            for start, ttft, itls, tokens, error in zip(*columns)]


def good_share(requests, limits):
    """0 to 1. A request that failed is not good. REQUIRES: there is a request."""
    return sum(map(limits.allow, requests)) / len(requests)


def arrival_rate(requests):
    """Requests a second, as they came. REQUIRES: two requests at least, at different times."""
    return (len(requests) - 1) / (requests[-1].start_s - requests[0].start_s)


def goodput(requests, limits):
    """Good requests for each second in which requests came. The time that the last ones take to end does not count, so
    that a short trace gives what a long one does; what does not keep up shows in the share."""
    return good_share(requests, limits) * arrival_rate(requests)
