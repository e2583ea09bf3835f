"""The wire contract sentence by sentence, with the black-box tests that hold it: none may go without being missed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

READING = {
    "Accept: text/event-stream, and /sse, read as server-sent events": (
        "partner_sse::accept_chooses_the_protocol",
        "partner_sse::the_answer_says_that_it_is_a_stream_and_that_nobody_may_keep_or_change_it",
    ),
    "Upgrade: websocket, and /ws, read over a WebSocket": (
        "partner_ws::the_plain_address_of_the_stream_upgrades_as_well",
        "partner_errors::the_websocket_address_without_an_upgrade_is_426",
    ),
    "Accept: application/json, /records and an undecided client pull": (
        "partner_pull::pull_is_what_an_undecided_client_gets",
    ),
    "Accept: application/x-ndjson, and /ndjson, read line by line": ("partner_ndjson::accept_chooses_the_protocol",),
    "GET /v1/streams lists what this token may read, with all that is said of each": (
        "partner_access::the_list_holds_what_the_token_may_read_and_nothing_internal",
        "partner_access::the_list_follows_scopes_claims_and_entitlements",
        "partner_small_print::every_link_of_the_list_leads_where_it_says",
    ),
    "absent, and neither public nor entitled, are the same 404": (
        "partner_access::what_does_not_exist_and_what_is_not_to_be_known_answer_alike",
    ),
    "403 names the scope, the claim or the transport that is missing": (
        "partner_access::with_an_entitlement_the_refusal_names_what_is_missing",
    ),
    "retired is 410 with the successor": ("partner_errors::a_retired_stream_is_gone_and_names_its_successor",),
    "deprecated has Deprecation and Sunset": (
        "partner_access::a_deprecated_stream_says_so_in_headers_and_is_served",
        "partner_access::a_stream_that_is_not_deprecated_has_no_such_headers",
    ),
}

PARAMETERS = {
    "from=latest, the default": ("partner_start::the_default_and_latest_give_what_comes_after_the_open",),
    "from=earliest": ("partner_start::earliest_gives_everything_in_partition_order",),
    "from=a time, RFC 3339 or epoch milliseconds": (
        "partner_start::a_time_is_rfc_3339_or_epoch_milliseconds",
        "partner_start::a_time_starts_at_the_first_record_at_or_after_it",
        "partner_start::a_time_ahead_is_the_latest_and_one_before_all_is_the_earliest",
    ),
    "a plus that arrives as a space is accepted": (
        "partner_start::a_plus_that_is_not_escaped_is_taken_for_what_it_was",
    ),
    "cursor, also last_event_id, resumes after it": (
        "partner_start::a_cursor_of_any_protocol_resumes_on_every_protocol",
        "partner_errors::two_names_for_one_cursor_are_one_too_many",
    ),
    "on_gap=continue says the gap and goes on": (
        "partner_start::retention_that_passed_the_cursor_is_a_gap_before_the_first_record",
        "partner_start::on_gap_changes_nothing_where_there_is_no_gap",
    ),
    "on_gap=error is 410 cursor_expired with the earliest cursor": (
        "partner_start::on_gap_error_refuses_with_the_earliest_cursor_instead",
    ),
    "filter: every op, all terms together, on every protocol": (
        "partner_shape::a_filter_gives_what_it_says",
        "partner_shape::a_filter_holds_for_old_and_new_records_on_every_protocol",
        "partner_shape::a_resume_may_change_the_filter_and_loses_nothing_of_the_new_one",
    ),
    "filter: names from the contract only, refused with what is allowed": (
        "partner_shape::a_bad_filter_is_named_with_what_is_allowed",
        "partner_shape::a_stream_without_filters_or_without_json_says_so",
        "partner_filters::an_absurd_filter_is_refused_with_its_name_and_what_is_allowed",
        "partner_filters::a_websocket_is_refused_an_absurd_filter_in_the_same_words",
    ),
    "fields: pointers within the contract's projection": (
        "partner_shape::fields_cut_a_record_down_and_keep_number_text",
        "partner_shape::fields_are_the_same_on_every_protocol",
        "partner_shape::fields_outside_the_contract_are_refused",
        "partner_filters::absurd_fields_are_refused_with_what_is_allowed",
    ),
    "envelope=record, the default": ("partner_errors::the_envelope_may_be_said",),
    "envelope=cloudevents": (
        "partner_shape::cloudevents_over_pull",
        "partner_shape::cloudevents_over_sse",
        "partner_shape::cloudevents_over_frames_are_told_by_their_specversion",
        "partner_shape::cloudevents_of_other_payloads",
    ),
    "envelope=none on SSE and pull, elsewhere 400": (
        "partner_shape::the_bare_payload_over_sse_and_pull",
        "partner_shape::the_bare_payload_is_refused_where_frames_need_a_type",
        "partner_small_print::the_bare_payload_is_refused_on_a_websocket",
    ),
    "shard=i/n gives the partitions p with p mod n = i": (
        "partner_shape::shards_share_a_stream_out_by_partition",
        "partner_shape::a_shard_without_a_partition_is_idle",
        "partner_shape::a_bad_shard_is_named_with_what_is_allowed",
    ),
    "limit, 1 to 1000, 100 unless told": ("partner_pull::a_page_holds_a_hundred_records_unless_told_otherwise",),
    "max_bytes": (
        "partner_pull::max_bytes_bounds_the_page_and_the_chain_still_gives_all",
        "partner_pull::a_record_larger_than_max_bytes_comes_alone_rather_than_never",
    ),
    "wait, 0 to 30 seconds, 0 unless told": (
        "partner_pull::the_default_is_the_latest_and_not_to_wait",
        "partner_pull::a_waiting_pull_answers_as_soon_as_a_record_comes",
        "partner_pull::a_pull_with_records_at_hand_does_not_wait_for_more",
        "partner_pull::a_wait_that_nothing_ends_answers_empty_after_its_time",
        "partner_errors::a_bad_value_of_pull_is_named_with_what_is_allowed",
    ),
    "the header, then the cursor, then from": (
        "partner_start::the_header_wins_over_the_cursor_and_the_cursor_over_from",
        "partner_start::an_empty_last_event_id_header_is_none",
        "partner_small_print::the_last_event_id_wins_over_cursor_and_from_on_every_protocol",
        "partner_small_print::a_last_event_id_that_is_no_cursor_is_an_invalid_cursor",
    ),
    "Gateway-Start-Cursor, or welcome.cursor, says where the read starts": (
        "partner_start::the_start_cursor_is_where_the_read_starts",
        "partner_pull::the_answer_names_where_the_read_starts_and_is_not_stored",
    ),
    "Gateway-Session, or welcome.session, names the read": (
        "partner_small_print::every_read_that_stays_open_has_a_session_of_its_own",
        "partner_ws::the_subprotocol_is_echoed_and_a_welcome_comes_first",
        "partner_ndjson::the_first_line_is_a_welcome_that_names_session_start_and_heartbeat",
    ),
    "an unknown parameter or a bad value is named, with what is allowed": (
        "partner_errors::an_unknown_parameter_is_named_with_those_that_are_known",
        "partner_errors::a_bad_value_is_named_with_what_is_allowed",
    ),
    "a start before max_age or retention is a gap and then what is allowed": (
        "partner_start::a_start_before_the_contracts_max_age_is_a_gap_and_then_what_is_allowed",
        "partner_start::a_time_before_retention_is_a_gap_and_earliest_is_none",
        "partner_start::earliest_begins_at_the_contracts_max_age",
    ),
    "earliest: false in the contract is 403": ("partner_start::a_contract_without_replay_refuses_a_start_in_the_past",),
    "Kafka away at the open is 503 with Retry-After within its time": (
        "partner_errors::a_topic_that_is_not_there_is_503_within_the_time_an_open_may_take",
        "partner_outage::without_kafka_it_comes_up_not_ready_says_why_and_recovers_by_itself",
    ),
}

RECORDS = {
    "a record is id, uid, key, time and data": ("partner_pull::a_record_has_its_cursor_identity_key_time_and_data",),
    "id resumes after this record, on any protocol and node": (
        "partner_pull::any_records_cursor_goes_on_after_that_record",
        "partner_start::a_cursor_of_one_node_is_good_on_the_other",
        "partner_ws::it_resumes_at_any_frame",
        "partner_ndjson::it_resumes_at_any_line",
    ),
    "uid is the same on every node, protocol, view and delivery, in 24 characters": (
        "partner_start::a_record_has_one_uid_everywhere_and_cursors_differ_by_place",
        "partner_small_print::the_uid_is_one_in_every_shape_of_a_view",
    ),
    "the uid's key outlives the cursors' keys; another topic has other uids": (
        "partner_small_print::the_uid_outlives_restarts_and_cursor_keys_and_not_the_topic",
    ),
    "key and headers only where the contract exposes them": (
        "partner_pull::a_contract_that_hides_the_key_shows_neither_key_nor_headers",
    ),
    "a tombstone is null; what is no JSON by contract is base64": (
        "partner_pull::a_payload_that_is_not_json_by_contract_is_base64",
        "partner_hostile::bytes_by_contract_come_back_exactly",
    ),
    "number text is kept; only whitespace may go": (
        "partner_pull::number_text_stays_as_it_was_produced",
        "partner_hostile::each_hostile_payload_is_delivered_exactly_or_is_a_gap",
    ),
    "what breaks its encoding is never sent raw but a gap at its place": (
        "partner_pull::undecodable_records_are_a_gap_at_their_place_and_never_sent",
        "partner_hostile::each_hostile_payload_is_delivered_exactly_or_is_a_gap",
        "partner_hostile::who_reads_while_they_are_produced_gets_the_same",
    ),
    "the projection shows what it lists and nothing else": (
        "partner_pull::a_projection_shows_what_it_lists_and_nothing_else",
        "partner_hostile::a_projection_of_them_shows_what_it_lists_or_a_gap",
    ),
}

CURSORS = {
    "sealed: offsets and volumes are not readable": ("partner_start::a_cursor_tells_nothing_of_offsets_by_its_length",),
    "128 characters at 12 partitions": (
        "partner_small_print::twelve_partitions_make_cursors_of_128_characters_at_most",
        "cursor::twelve_partitions_below_2_to_the_40_fit_into_128_characters",
    ),
    "keys rotate": ("partner_start::cursors_of_older_keys_stay_good_and_those_of_unknown_keys_do_not",),
    "a cursor never widens access": ("partner_access::a_token_withdrawn_scope_does_not_open_a_cursor",),
    "forged, truncated, another stream's: 400, one message": (
        "partner_start::a_cursor_that_is_not_exactly_as_given_is_refused_with_one_message",
        "partner_start::a_bad_cursor_is_refused_on_every_protocol_and_under_every_name",
        "partner_start::every_bit_of_a_cursor_counts",
    ),
    "another shard split's: 400": ("partner_shape::a_shard_resumes_by_its_own_cursor_only",),
    "older than retention: the gap says so first": (
        "partner_start::retention_that_passed_the_cursor_is_a_gap_before_the_first_record",
        "history::a_reader_that_is_overtaken_by_retention_is_told_exactly_what_it_missed",
    ),
    "topic recreated or truncated: history_changed": (
        "partner_start::a_topic_that_was_made_anew_is_a_gap_that_says_so",
        "history::open_streams_of_a_topic_that_is_made_anew_end_and_are_told_on_their_return",
        "history::a_topic_that_is_made_anew_while_nobody_reads_is_a_gap_on_every_node",
    ),
    "a partition that the cursor does not hold starts at its earliest record": (
        "partner_start::partitions_that_are_new_are_read_from_their_beginning",
        "history::partitions_that_are_added_are_read_from_their_beginning_on_every_protocol",
    ),
}

EVENTS = {
    "the headers of a stream": (
        "partner_sse::the_answer_says_that_it_is_a_stream_and_that_nobody_may_keep_or_change_it",
    ),
    "first bytes at once: retry": (
        "partner_sse::the_first_bytes_are_retry_and_come_at_once",
        "partner_sse::retry_is_jittered_so_that_not_all_come_back_at_once",
    ),
    "a record is id and data without a name; data is the record without id": (
        "partner_sse::a_record_is_an_id_line_and_a_data_line_and_has_no_event_name",
        "partner_small_print::sse_has_the_record_without_its_id_and_pull_has_the_same_with_it",
    ),
    "checkpoint: idle, filtered out, every 15 s, with an id": (
        "partner_sse::an_idle_stream_beats_with_checkpoints_that_have_an_id",
        "partner_sse::everything_filtered_out_is_told_as_progress",
        "history::a_checkpoint_says_how_long_the_next_record_is_there",
        "partner_small_print::the_uid_outlives_restarts_and_cursor_keys_and_not_the_topic",
    ),
    "gap: reason, from, resumed_at": (
        "partner_sse::a_gap_is_an_event_with_a_name_and_an_id_at_its_place",
        "partner_ws::checkpoints_beat_and_gaps_stand_at_their_place",
        "partner_ndjson::records_come_as_they_are_produced_and_gaps_at_their_place",
    ),
    "goodbye: the last event, after retry, with its cursor": (
        "partner_drain::goodbye_on_sse_comes_with_the_streams_own_retry",
        "partner_drain::every_stream_hears_goodbye_and_goes_on_elsewhere_without_a_loss",
    ),
    "nothing in a payload breaks an event": (
        "partner_sse::what_a_payload_holds_never_breaks_an_event",
        "partner_hostile::each_hostile_payload_is_delivered_exactly_or_is_a_gap",
    ),
}

FRAMES = {
    "gateway.v1, JSON text frames": (
        "partner_ws::the_subprotocol_is_echoed_and_a_welcome_comes_first",
        "partner_ws::a_client_without_a_subprotocol_is_served_too",
    ),
    "one message per record": ("partner_ws::each_record_is_one_message",),
    "CloudEvents carry specversion, control frames never": (
        "partner_shape::cloudevents_over_frames_are_told_by_their_specversion",
    ),
    "welcome: session, cursor, expires_at, heartbeat_ms, limits": (
        "partner_ws::the_subprotocol_is_echoed_and_a_welcome_comes_first",
        "partner_small_print::the_welcome_says_when_the_token_ends",
    ),
    "pause and resume": ("partner_ws::pause_holds_records_back_and_resume_gives_all_of_them",),
    "an unknown or malformed frame is an error, the third 4400": (
        "partner_ws::a_frame_that_is_no_command_is_told_and_the_stream_goes_on",
        "partner_ws::the_third_bad_frame_ends_the_stream_with_4400",
        "partner_fuzz::whatever_frames_a_client_sends_it_is_told_and_closed_in_order",
    ),
    "refusals before the upgrade are HTTP answers": (
        "partner_ws::a_refusal_before_the_upgrade_is_an_http_answer_with_a_problem",
    ),
    "with an Origin: accepted, goodbye, closed with the code": (
        "partner_ws::a_browser_hears_the_same_as_a_goodbye_and_a_close_code",
        "clients::a_browsers_page_can_read_why_its_websocket_was_refused",
    ),
    "NDJSON: one object a line, the WebSocket's frames": (
        "partner_ndjson::every_line_is_one_object_with_its_type",
        "partner_small_print::a_line_of_ndjson_is_the_websockets_message_to_the_letter",
    ),
    "4401 token_expired": ("partner_access::a_stream_ends_when_its_token_does_and_goes_on_with_another",),
    "4408 too_slow": ("subscription::a_client_that_takes_nothing_for_20_seconds_is_ended_as_too_slow_and_dropped",),
    "4503 draining": ("partner_drain::every_stream_hears_goodbye_and_goes_on_elsewhere_without_a_loss",),
    "4503 unavailable": ("history::open_streams_of_a_topic_that_is_made_anew_end_and_are_told_on_their_return",),
    "protocol abuse: 1002, 1003, 1007, 1008, 1009": (
        "server_websocket::abuse_is_closed_with_its_code_within_two_seconds",
        "partner_fuzz::whatever_frames_a_client_sends_it_is_told_and_closed_in_order",
    ),
}

PAGES = {
    "records, next_cursor, behind_ms, lag, throttled_ms, gaps": (
        "partner_pull::the_default_is_the_latest_and_not_to_wait",
        "partner_pull::lag_and_behind_tell_how_much_and_how_old_what_is_left_is",
    ),
    "before is an index into records": ("partner_pull::undecodable_records_are_a_gap_at_their_place_and_never_sent",),
    "no lag where a row filter applies": (
        "partner_pull::a_row_filter_gives_the_rows_of_the_claim_and_no_other",
        "partner_hostile::who_sees_own_rows_only_hears_nothing_of_them",
    ),
    "empty at the timeout, with an advanced cursor": (
        "partner_pull::a_wait_over_others_rows_answers_empty_with_an_advanced_cursor",
    ),
    "stateless: the chain of cursors gives all, on any node": (
        "partner_pull::the_chain_of_next_cursors_gives_every_record_once_and_in_partition_order",
        "exactly::readers_that_break_and_resume_across_protocols_and_nodes_get_every_record_in_order",
    ),
}

ACCESS = {
    "a JWT in the query is 400 on every route, and is neither repeated nor logged": (
        "partner_addresses::a_token_in_the_query_is_refused_before_anybody_asks_who_it_is",
        "partner_addresses::a_websocket_is_refused_a_token_in_its_query",
        "partner_addresses::no_log_has_seen_a_token",
    ),
    "an Origin that the application does not list is 403, for tickets and the token endpoint too": (
        "partner_browsers::any_other_origin_is_refused_and_not_named",
        "partner_tickets::a_ticket_opens_nothing_for_a_page_that_the_application_does_not_list",
        "token_endpoint::a_page_that_the_application_does_not_list_gets_no_token",
    ),
    "a ticket is one read, one connection at a time, on any node": (
        "partner_tickets::a_ticket_opens_a_read_and_opens_it_again_on_any_node",
        "partner_tickets::a_second_read_by_a_ticket_in_use_is_told_in_a_way_its_client_can_hear",
        "partner_tickets::a_ticket_is_no_good_elsewhere",
    ),
    "Redis is no reason for a 5xx, and none to use a ticket twice": (
        "partner_tickets::redis_away_is_no_reason_to_refuse_a_ticket_or_to_take_one_twice",
    ),
    "more than one credential is 400": ("partner_access::two_credentials_are_one_too_many",),
    "GET /v1/limits tells of tighter rates": (
        "limits_served::the_callers_tighter_limits_say_why_a_read_is_slower_than_the_plan",
    ),
}

ERRORS = {
    "a problem has all of its members, and a documented code": (
        "partner_fuzz::a_request_with_a_fault_is_refused_and_one_without_is_served",
    ),
    "X-Correlation-Id is accepted, bounded, checked and returned": (
        "partner_errors::a_well_formed_correlation_id_is_kept",
        "partner_errors::any_other_correlation_id_is_replaced",
        "partner_errors::every_request_gets_a_correlation_id_of_its_own",
        "partner_small_print::two_correlation_ids_are_none",
    ),
    "bad input is always 4xx": (
        "partner_fuzz::no_request_whatsoever_is_a_5xx_or_hangs",
        "partner_fuzz::a_request_with_damaged_bytes_is_answered_or_dropped",
        "partner_fuzz::another_server_gives_no_5xx_and_no_hang_either",
    ),
}

SMALL_PRINT = {
    "no route takes a parameter that it does not know": (
        "partner_addresses::no_documented_route_takes_a_parameter_that_it_does_not_know",
        "admin::no_address_takes_a_parameter_that_it_does_not_know",
    ),
    "an unknown member of a JSON body is 400, of a fresh token's too": (
        "partner_tickets::what_a_ticket_is_asked_for_is_checked",
        "partner_addresses::a_refresh_takes_its_token_from_the_header_and_no_body",
        "admin::a_reload_takes_no_body",
    ),
    "white space around a header's value is none of it": (
        "partner_addresses::white_space_around_a_header_is_none_of_its_value",
    ),
    "given twice, empty, or of pull elsewhere: 400": (
        "partner_errors::a_parameter_given_twice_or_empty_is_refused",
        "partner_errors::a_parameter_of_pull_is_refused_elsewhere",
    ),
    "in takes a comma list with escapes; an absent field is false, ne too": (
        "partner_shape::a_filter_gives_what_it_says",
        "partner_filters::what_only_looks_absurd_is_served",
    ),
    "an Accept that nothing serves: 406": ("partner_errors::an_accept_that_nothing_serves_is_406",),
    "a pull gives at least one record": ("partner_pull::a_record_larger_than_max_bytes_comes_alone_rather_than_never",),
    "a token of 8 000 bytes": (
        "partner_small_print::a_token_of_eight_thousand_bytes_is_read_and_a_longer_one_refused",
    ),
    "header line, headers, their number": ("partner_small_print::headers_have_the_bounds_that_are_promised",),
    "100 parameters": (
        "partner_small_print::a_hundred_parameters_are_read_and_one_more_is_refused",
        "partner_filters::hundreds_of_terms_are_too_many_parameters_of_any_kind",
    ),
    "bodies of 64 KiB": ("partner_small_print::a_body_larger_than_64_kib_is_refused_wherever_it_is_sent",),
    "20 terms": (
        "partner_shape::a_filter_has_twenty_terms_at_most",
        "partner_filters::more_terms_than_are_allowed_are_refused_with_the_bound",
        "partner_filters::ten_thousand_terms_are_a_target_that_is_too_long",
    ),
    "base64url is strict": ("partner_small_print::base64url_is_strict_in_tokens_and_in_cursors",),
    "consecutive undecodable records are one gap": (
        "partner_pull::undecodable_records_are_a_gap_at_their_place_and_never_sent",
        "partner_sse::a_gap_is_an_event_with_a_name_and_an_id_at_its_place",
    ),
    "goodbye.reconnect is a boolean; retry_after_ms only where it is true": (
        "partner_small_print::a_goodbye_that_asks_for_a_change_names_no_time_to_come_back",
        "partner_drain::goodbye_on_sse_comes_with_the_streams_own_retry",
    ),
    "a suspended tenant, an unknown application, a public stream without entitlement": (
        "partner_access::a_suspended_tenant_is_told",
        "partner_access::a_stranger_signed_token_an_expired_one_and_an_unknown_client_are_refused",
        "partner_access::a_public_stream_says_that_an_entitlement_is_missing",
    ),
    "the list is paged by limit and next": (
        "partner_errors::the_list_of_streams_is_paged_and_knows_no_other_parameters",
    ),
    "hostile neighbours are not noticed": ("partner_hostile::the_neighbours_stream_is_untouched",),
    "the management port is not reachable on the public one": (
        "partner_errors::the_management_port_does_not_show_on_the_public_one",
    ),
}

CHAPTERS = (READING, PARAMETERS, RECORDS, CURSORS, EVENTS, FRAMES, PAGES, ACCESS, ERRORS, SMALL_PRINT)


@pytest.mark.parametrize("promise", [promise for chapter in CHAPTERS for promise in chapter])
def test_each_promise_to_partners_has_tests_that_exist(promise: str) -> None:
    (held_by,) = [chapter[promise] for chapter in CHAPTERS if promise in chapter]
    assert held_by
    for test in held_by:
        module, _, name = test.partition("::")
        text = (FOLDER / f"test_{module}.py").read_text()
        assert re.search(rf"^(async )?def test_{name}\(", text, re.MULTILINE), f"{test} is not there any more"
