"""FORMAT.md promises; here stands, for each of its sentences, lines and rows, the test of that promise.

A sentence that nobody can check belongs off the page. One that is new fails here until its test is named.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPLAINS: list[str] = []  # says how or why, and promises nothing
# The beginning of what the page says -> where it is tested (a file of tests/ and functions of it).
TESTED = {
    "A store is a folder, or": [
        "store/test_s3.py::test_a_store_in_a_bucket",
        "store/test_verify.py::test_verify_in_an_object_store",
    ],
    "A reader sees a whole": [
        "store/test_commit.py::test_a_commit_that_dies_shows_nothing",
        "store/test_proof.py::test_two_hundred_kills",
        "store/test_proof.py::test_a_thousand_flips",
    ],
    "snapshots/00000001.json ": ["store/test_manifest.py::test_snapshots_are_found_by_number"],
    "parts/<table>/": [
        "store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged",
        "store/test_writer.py::test_a_part_is_not_called_just_anything",
    ],
    "indexes/<table>-": ["store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged"],
    "work/...": ["store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged"],
    ".tmp-...": ["store/test_storage.py::test_unfinished_files_are_not_listed"],
    "`<hash>` is the first": [
        "store/test_verify.py::test_an_index_is_what_its_name_and_its_card_say",
        "store/test_writer.py::test_the_path_names_table_name_and_content",
    ],
    "No file carries a time": [
        "store/test_golden.py::test_the_present_format_is_written_byte_by_byte",
        "store/test_form.py::test_metadata_beside_arrows_schema",
    ],
    "(Indexes of the graph": EXPLAINS,
    "Paths are relative": [
        "store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged",
        "store/test_storage.py::test_paths_stay_inside",
    ],
    "A store may lie behind": [
        "store/test_storage.py::test_nothing_is_written_listed_or_deleted_through_a_link",
        "store/test_storage.py::test_the_store_itself_may_lie_behind_a_link",
    ],
    "A folder that cannot": ["store/test_storage.py::test_a_folder_that_cannot_be_read_is_not_an_empty_one"],
    "In an address": [
        "store/test_storage.py::test_every_letter_of_a_buckets_address_counts",
        "store/test_storage.py::test_names_that_are_none_are_refused",
    ],
    "The manifest is JSON": ["store/test_wrong_documents.py::test_a_manifest_in_another_form"],
    "| `format_version`": [
        "store/test_manifest.py::test_a_later_version_says_so_even_with_keys_we_do_not_know"
    ],
    "| `snapshot`, `parent`": ["store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged"],
    "| `dims`": ["store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged"],
    "| `fingerprints`": ["store/test_verify.py::test_fingerprints_and_configuration_are_what_they_should_be"],
    "| `config`": [
        "store/test_verify.py::test_fingerprints_and_configuration_are_what_they_should_be",
        "store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged",
    ],
    "| `parts`": ["store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged"],
    "| `indexes`": ["store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged"],
    "| `sha256`": ["store/test_manifest.py::test_every_flipped_byte_is_found"],
    "Every key is there": ["store/test_wrong_documents.py::test_a_manifest_that_is_wrong_anywhere"],
    "What has its right hash": ["store/test_manifest.py::test_the_error_says_where_and_what"],
    "That holds for marks": [
        "store/test_wrong_documents.py::test_a_mark_that_is_wrong",
        "store/test_wrong_documents.py::test_a_card_that_is_wrong",
        "store/test_wrong_documents.py::test_a_list_of_stores_that_is_wrong",
    ],
    "A **commit** is": [
        "store/test_commit.py::test_of_many_writers_one_wins",
        "store/test_s3.py::test_of_many_writers_one_wins",
    ],
    "On a disk without hard": [
        "store/test_storage.py::test_of_many_writers_without_hard_links_one_wins",
        "store/test_storage.py::test_put_if_absent_without_hard_links",
    ],
    "It is the last act": [
        "store/test_flushing.py::test_all_that_a_snapshot_names_is_on_the_disk_before_it_is"
    ],
    "Of two writers": ["store/test_commit.py::test_the_loser_learns_what_to_do"],
    "(A writer that finds": ["store/test_s3_failures.py::test_a_commit_whose_answer_is_lost_is_a_commit"],
    "Before the put": [
        "store/test_commit.py::test_a_lost_or_shortened_part_stops_the_commit",
        "store/test_commit.py::test_a_key_in_two_parts_stops_the_commit",
        "store/test_commit.py::test_a_part_named_twice_or_miscounted_stops_the_commit",
    ],
    "A local file is written": [
        "store/test_storage.py::test_a_file_is_on_the_disk_before_its_name_is_there",
        "store/test_flushing.py::test_new_folders_are_flushed_in_the_ones_above",
    ],
    "A **prune** deletes": [
        "store/test_prune.py::test_the_newest_is_kept_and_the_others_go",
        "store/test_prune.py::test_what_only_an_old_snapshot_needed_goes_at_once",
    ],
    "Files that no snapshot": ["store/test_prune.py::test_unnamed_files_are_dropped_when_they_are_old"],
    "Cut short": ["store/test_prune.py::test_a_prune_that_dies_leaves_whole_snapshots"],
    "A number below": ["store/test_commit.py::test_a_number_that_was_taken_and_pruned_is_not_free"],
    "A run tries before": ["store/test_trial.py::test_a_place_that_overwrites_what_it_was_told_to_leave"],
    "A reader of a dropped": [
        "store/test_prune.py::test_a_reader_of_a_dropped_snapshot_gets_rows_or_a_named_error",
        "store/test_prune.py::test_a_reader_of_a_dropped_index_hears_that_it_was_pruned",
    ],
    "Runs and prunes keep": [
        "store/test_prune.py::test_a_run_at_work_is_left_alone",
        "store/test_prune.py::test_no_run_begins_during_a_prune",
    ],
    "Each puts its own sign": ["store/test_signs.py::test_who_is_refused_leaves_no_sign"],
    "So of two that begin": ["store/test_interleavings.py::test_any_order"],
    "A commit does this": ["store/test_commit.py::test_no_commit_during_a_prune"],
    "Several prunes": ["store/test_prune.py::test_two_prunes_hold_runs_off_until_both_have_ended"],
    "Everybody takes away": [
        "store/test_prune.py::test_two_prunes_hold_runs_off_until_both_have_ended",
        "store/test_signs.py::test_nobody_waits_for_a_killed_process",
    ],
    "A sign says host": [
        "store/test_signs.py::test_a_sign_is_renewed_whatever_the_work_does",
        "store/test_signs.py::test_a_sign_holds_for_an_hour_after_it_was_renewed",
        "store/test_signs.py::test_age_is_told_by_the_storages_clock",
        "store/test_signs.py::test_a_process_of_this_machine_that_has_ended_counts_no_longer",
    ],
    "`--even-beside-a-run`": [
        "store/test_prune.py::test_a_prune_beside_a_run_takes_what_it_asks_for_and_never_the_sign",
        "store/test_prune.py::test_no_prune_beside_a_commit_whatever_is_said",
    ],
    "A **mark** is": [
        "store/test_wrong_documents.py::test_a_mark_that_is_wrong",
        "store/test_wrong_documents.py::test_a_mark_of_another_form_is_listed",
    ],
    "It is put under": [
        "textcam/test_audit_acts.py::test_nobodys_mark_is_lost_when_many_mark_at_once",
        "textcam/test_audit_acts.py::test_the_later_mark_counts_and_core_sinks",
    ],
    "A prune leaves marks": [
        "textcam/test_audit_acts.py::test_marks_survive_snapshots_and_prunes_and_are_verified"
    ],
    "Parquet 2.6, zstd": [
        "store/test_form.py::test_each_property_of_a_file_is_proven",
        "store/test_form.py::test_a_row_group_that_is_too_large",
        "store/test_form.py::test_dictionaries_are_for_text_alone",
        "store/test_form.py::test_byte_stream_split",
        "store/test_form.py::test_metadata_beside_arrows_schema",
    ],
    "Rows ascend strictly": ["store/test_verify.py::test_parts_that_were_not_written_by_the_writer"],
    "Vectors that the models": ["store/test_verify.py::test_parts_that_were_not_written_by_the_writer"],
    "The tables, keys": [
        "store/test_verify.py::test_parts_that_were_not_written_by_the_writer",
        "store/test_verify.py::test_all_tables_are_known_to_the_tests",
    ],
    "`blocks` is a list": [
        "store/test_manifest.py::test_a_rightly_hashed_but_wrong_manifest_is_damaged",
        "store/test_writer.py::test_blocks_cover_the_file",
    ],
    "They end where readers": ["store/test_form.py::test_blocks_end_where_readers_stop"],
    "A reader fetches whole": [
        "store/test_reader.py::test_each_flip_in_a_part_is_found_before_a_row_is_returned",
        "store/test_writer.py::test_reading_ids_leaves_the_vectors_alone",
        "store/test_s3.py::test_a_few_rows_do_not_download_a_table",
    ],
    "Several parts make": ["store/test_reader.py::test_parts_are_merged_by_key"],
    "Rows join by id": EXPLAINS,
    "`texts` (embedding), ": [
        "store/test_index.py::test_an_index_with_other_vectors_or_ids_is_found",
        "store/test_verify.py::test_each_harm_is_named",
    ],
    "The tier follows": [
        "store/test_verify.py::test_an_index_is_what_its_name_and_its_card_say",
        "store/test_vectors.py::test_tiers_follow_size",
    ],
    "The configuration may ask": ["pipelines/test_indexes.py::test_the_tier_is_for_large_tables_only"],
    "The card says": [
        "store/test_index.py::test_the_card_says_what_the_index_is",
        "store/test_verify.py::test_an_index_is_what_its_name_and_its_card_say",
        "store/test_index.py::test_too_low_a_recall_is_refused_and_not_written",
    ],
    "An index whose card": ["store/test_index.py::test_an_index_of_another_table_content_is_refused"],
    "A small table without": ["store/test_index.py::test_without_an_index_a_small_table_is_searched_exactly"],
    "| empty table": [
        "store/test_writer.py::test_an_empty_part_is_a_part",
        "store/test_sql.py::test_a_table_that_is_not_there_is_empty",
    ],
    "| NaN": [
        "store/test_writer.py::test_refused_rows_write_nothing",
        "store/test_verify.py::test_parts_that_were_not_written_by_the_writer",
        "store/test_writer.py::test_missing_values_are_refused_where_the_schema_does_not_allow_them",
    ],
    "| number too large": ["store/test_writer.py::test_refused_rows_write_nothing"],
    "| zero vector": [
        "store/test_verify.py::test_each_harm_is_named",
        "store/test_verify.py::test_allowed_exceptions",
    ],
    "| key twice": [
        "store/test_writer.py::test_refused_rows_write_nothing",
        "store/test_commit.py::test_a_key_in_two_parts_stops_the_commit",
        "store/test_verify.py::test_a_wrong_count_and_a_key_in_two_parts",
    ],
    "| unsorted rows": ["store/test_writer.py::test_refused_rows_write_nothing"],
    "| a new column": [
        "store/test_manifest.py::test_a_table_of_a_later_format_is_damage",
        "store/test_golden.py::test_its_manifest",
    ],
    "| number out of bounds": [
        "store/test_writer.py::test_refused_rows_write_nothing",
        "store/test_verify.py::test_each_wrong_value_in_a_forged_part_is_named",
    ],
    "| text |": [
        "store/test_writer.py::test_refused_rows_write_nothing",
        "store/test_verify.py::test_text_that_is_not_utf_8",
    ],
    "| negative id": [
        "store/test_writer.py::test_refused_rows_write_nothing",
        "store/test_verify.py::test_each_wrong_value_in_a_forged_part_is_named",
    ],
    "| words": [
        "store/test_writer.py::test_refused_rows_write_nothing",
        "store/test_verify.py::test_each_wrong_value_in_a_forged_part_is_named",
    ],
    "| newer version": ["store/test_manifest.py::test_a_later_version_says_so_even_with_keys_we_do_not_know"],
    "| missing, shortened": [
        "store/test_verify.py::test_every_file_is_covered_by_flips_cuts_and_losses",
        "store/test_reader.py::test_lost_and_shortened_files",
    ],
    "| altered manifest": [
        "store/test_manifest.py::test_every_flipped_byte_is_found",
        "store/test_prune.py::test_a_damaged_old_manifest_goes_and_a_damaged_kept_one_stops_the_prune",
    ],
    "| no manifest": [
        "store/test_commit.py::test_before_the_commit_there_is_no_store",
        "store/test_wrong_documents.py::test_a_list_of_stores_that_is_wrong",
    ],
    "| no space": [
        "store/test_storage.py::test_a_flush_without_space_is_named",
        "store/test_commit.py::test_a_disk_that_fills_up",
    ],
    "| same part written": ["store/test_writer.py::test_a_second_write_repairs_a_damaged_part"],
    "| K, D or N": ["store/test_reader.py::test_sizes_of_one_are_nothing_special"],
    "| URIs": ["store/test_writer.py::test_uris_are_compared_byte_by_byte"],
    "| ids": ["store/test_verify.py::test_each_wrong_value_in_a_forged_part_is_named"],
    "`textcam verify` proves": [
        "store/test_verify.py::test_each_harm_is_named",
        "store/test_verify.py::test_problems_are_all_listed_not_only_the_first",
    ],
    "How files are written": EXPLAINS,
}


def units():
    """What the page says, one by one: lines of its drawing, rows of its tables, sentences."""
    said, paragraph, drawing = [], [], False

    def close():
        text = " ".join(paragraph)
        said.extend(re.split(r"(?<=[.)])(?<!e\.g\.)\s+(?=[A-Z`*(])", text) if text else [])
        paragraph.clear()

    for line in [*(ROOT / "store" / "FORMAT.md").read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("```"):
            close()
            drawing = not drawing
        elif drawing or line.startswith("|"):
            said.append(line)
        elif not line or line.startswith("#"):
            close()
        else:
            paragraph.append(line)
    heads = ("| key | value", "| case | decision", "|---")
    return [one for one in said if not one.startswith(heads)]


def functions(file):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


@pytest.mark.parametrize("unit", units())
def test_what_the_page_says_has_its_test(unit):
    assert [key for key in TESTED if unit.startswith(key)], f"Name its test, or strike it: {unit}"


def test_no_test_is_named_that_is_not_there():
    page = units()
    for key, named in TESTED.items():
        assert sum(unit.startswith(key) for unit in page) == 1, key
        for one in named:
            file, _, function = one.partition("::")
            assert function in functions(file), one
