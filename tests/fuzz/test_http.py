"""No request breaks the web process: mutated, unsigned, or no request at all."""

import pytest

from tests.fuzz.corpus import read_corpus
from tests.fuzz.http_campaign import HttpCampaign, check_log
from tests.support.dashboard import DashboardClient
from tests.support.web_process import WebProcess

REQUESTS = 1500


@pytest.mark.fuzz
def test_no_request_breaks_the_web_process(web: WebProcess) -> None:
    with DashboardClient(web.url) as client:
        campaign = HttpCampaign(web, seed="ci", cookies=client.cookies)

        campaign.run(REQUESTS)

    assert campaign.responses.total() == REQUESTS + len(read_corpus("envelope"))
    assert campaign.responses["signed", 200] + campaign.responses["signed", 400] == REQUESTS * 2 // 5
    assert {
        ("signed", 400),
        ("unsigned", 401),
        ("elsewhere", 200),
        ("elsewhere", 404),
        ("raw", 200),
        ("raw", 400),
    } <= set(campaign.responses)
    check_log(web)
