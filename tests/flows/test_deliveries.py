"""What a delivery adds: nothing of the archive is overwritten, films are known by content, tables are merged."""

from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from flows.deliveries import Addition, Film, addition, extended, places
from tasks.errors import UserError
from tasks.ingest.label_tables import open_table

OLD = {"a/1.png": "d1", "b/2.png": "d2"}


def nothing(_: str) -> str:
    return ""


class TestPlaces:
    def test_a_new_film_keeps_its_name(self) -> None:
        assert places({"c/3.png": "d3"}, OLD, nothing) == [Film("c/3.png", "c/3.png", True)]

    def test_a_film_that_comes_again_is_known_by_its_content_under_any_name(self) -> None:
        found = places({"a/1.png": "d1", "other/name.png": "d2"}, OLD, nothing)
        assert found == [Film("a/1.png", "a/1.png", False), Film("other/name.png", "b/2.png", False)]

    def test_another_film_of_a_name_that_is_taken_gets_one_of_its_own(self) -> None:
        digest = "0123456789abcdef"
        assert places({"a/1.png": digest}, OLD, nothing) == [Film("a/1.png", "a/1-01234567.png", True)]

    def test_a_film_twice_in_a_delivery_is_taken_once(self) -> None:
        found = places({"x.png": "d9", "y.png": "d9"}, OLD, nothing)
        assert found == [Film("x.png", "x.png", True), Film("y.png", "x.png", False)]

    def test_what_lies_in_the_folder_and_is_not_known_yet_is_not_overwritten(self) -> None:
        lying = {"c.png": "dc", "e.png": "another"}
        found = places({"c.png": "dc", "e.png": "0123456789"}, OLD, lambda path: lying.get(path, ""))
        assert found == [Film("c.png", "c.png", True), Film("e.png", "e-01234567.png", True)]


class TestTables:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def added(self, archive: str, delivered: str, films: dict[str, str], label_format: str = "table") -> Addition:
        Path("archive.csv").write_text(archive)
        Path("delivered.csv").write_text(delivered)
        found = places(films, OLD, nothing)
        return addition(Path("archive.csv"), Path("delivered.csv"), label_format, found, list(OLD))

    def after(self, added: Addition) -> str:
        return extended(Path("archive.csv"), added).decode()

    def test_rows_are_added_and_what_was_there_stays_to_the_byte(self) -> None:
        archive = 'path,label\n"a/1.png",x\r\nb/2.png,y'
        added = self.added(archive, "path,label\nc/3.png,z\na/1.png,x\n", {"c/3.png": "d3", "a/1.png": "d1"})
        assert self.after(added) == archive + "\nc/3.png,z\n"

    def test_columns_are_matched_by_name_and_new_ones_come_last(self) -> None:
        delivered = "Label;age;PATH\nz;40;c/3.png\n"
        added = self.added("path,label,patient_id\na/1.png,x,p1\n", delivered, {"c/3.png": "d3"})
        assert self.after(added) == "path,label,patient_id,age\na/1.png,x,p1,\nc/3.png,z,,40\n"

    def test_another_label_of_a_film_that_is_there_names_both_rows_and_no_film(self) -> None:
        with pytest.raises(
            UserError, match=r"row 2 of delivered\.csv says otherwise of its film than row 1 of"
        ) as error:
            self.added("path,label\na/1.png,x\n", "path,label\nc/3.png,z\na/1.png,y\n", {"c/3.png": "d3"})
        assert "a/1.png" not in str(error.value)

    def test_a_film_that_comes_again_under_another_name_with_another_label_is_a_conflict(self) -> None:
        with pytest.raises(UserError, match="row 1 of"):
            self.added("path,label\na/1.png,x\n", "path,label\nrenamed.png,y\n", {"renamed.png": "d1"})
        again = self.added("path,label\na/1.png,x\n", "path,label\nrenamed.png,x\n", {"renamed.png": "d1"})
        assert again.rows == []

    @pytest.mark.parametrize(("column", "key", "written"), [
        ("path", "a/1.png", "a/1-01234567.png"),
        ("file_name", "1.png", "1-01234567.png"),
        ("file_name", "1", "1-01234567.png"),
        ("image_id", "a/1.png", "a/1-01234567.png"),
    ])  # fmt: skip
    def test_the_row_of_a_film_with_a_name_of_its_own_names_it_so(self, column: str, key: str, written: str) -> None:
        added = self.added(f"{column},label\nb/2.png,y\n", f"{column},label\n{key},z\n", {"a/1.png": "0123456789"})
        assert added.rows == [[written, "z"]]

    @pytest.mark.parametrize(("key", "films", "written"), [
        ("3.png", {"c/3.png": "d3"}, "c/3.png"),
        ("D:\\new\\c\\3.png", {"c/3.png": "d3"}, "c/3.png"),
        ("new.png", {"new.png": "d2"}, "b/2.png"),
    ])  # fmt: skip
    def test_a_path_that_means_one_film_of_the_delivery_alone_is_written_out(
        self, key: str, films: dict[str, str], written: str
    ) -> None:
        """In the archive its end could mean several."""
        assert self.added("path,label\na/1.png,x\n", f"path,label\n{key},z\n", films).rows == [[written, "z"]]

    def test_a_row_about_a_film_that_is_not_there_names_no_other_one(self) -> None:
        films = {"s1/IM1": "d4", "s2/IM1": "d5", "IM1": "d6"}
        added = self.added("path,label\nIM1,x\n", "path,label\ns1/IM1,x\ns2/IM1,x\ns3/IM1,y\n", films)
        assert added.rows == [["s1/IM1", "x"], ["s2/IM1", "x"], ["s3/IM1", "y"]]

    def test_several_rows_of_a_film_are_all_compared(self) -> None:
        archive = "image_id,rad_id,class_name\n1,R1,A\n1,R2,B\n"
        assert self.added(archive, "image_id,rad_id,class_name\n1,R2,B\n1,R1,A\n", {}, "vindr").rows == []
        with pytest.raises(UserError, match="row 1 of"):
            self.added(archive, "image_id,rad_id,class_name\n1,R2,A\n", {}, "vindr")

    def test_identifiers_are_keys_as_they_are(self) -> None:
        added = self.added("PatientID,label\np1,x\n", "PatientID,label\np1,x\np2,y\n", {"c.dcm": "d3"})
        assert added.rows == [["p2", "y"]]

    def test_tables_that_name_films_in_different_ways_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"names films by PatientID, and the archive's table archive\.csv by path"):
            self.added("path,label\na/1.png,x\n", "PatientID,label\np1,x\n", {})

    def test_parquet_stays_parquet(self) -> None:
        pd.DataFrame({"path": ["a/1.png"], "label": ["x"], "age": [40]}).to_parquet("archive.parquet")
        Path("delivered.csv").write_text("path,label,age\nc/3.png,z,50\n")
        found = places({"c/3.png": "d3"}, OLD, nothing)
        added = addition(Path("archive.parquet"), Path("delivered.csv"), "table", found, list(OLD))
        Path("after.parquet").write_bytes(extended(Path("archive.parquet"), added))
        assert pd.read_parquet("after.parquet")["age"].tolist() == [40, 50]

    @pytest.mark.parametrize("more", ["", ",age"])
    def test_a_workbook_stays_a_workbook(self, more: str) -> None:
        book = openpyxl.Workbook()
        for row in ([], ["path", "label", "patient_id"], ["a/1.png", "x", 17]):
            book.worksheets[0].append(row)
        book.save("archive.xlsx")
        Path("delivered.csv").write_text(f"path,label,patient_id{more}\nc/3.png,=z,007{',50' if more else ''}\n")
        found = places({"c/3.png": "d3"}, OLD, nothing)
        added = addition(Path("archive.xlsx"), Path("delivered.csv"), "table", found, list(OLD))
        Path("after.xlsx").write_bytes(extended(Path("archive.xlsx"), added))
        table = open_table(Path("after.xlsx"))
        assert table.columns == ("path", "label", "patient_id", "age")[: 4 if more else 3]
        rows = [("a/1.png", "x", "17", ""), ("c/3.png", "=z", "007", "50")]
        assert list(table.rows(*table.columns)) == [row[: 4 if more else 3] for row in rows]

    @pytest.mark.parametrize("more", ["", ";age"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    def test_text_of_any_encoding_is_added_to(self, encoding: str, more: str) -> None:
        """Also where the delivery has letters that the archive's encoding lacks."""
        Path("archive.csv").write_bytes("sep=;\npath;label\na/1.png;Ödem\n".encode(encoding))
        Path("delivered.csv").write_text(f"path;label{more}\nc/3.png;Łódź{';50' if more else ''}\n", encoding="utf-8")
        added = addition(
            Path("archive.csv"), Path("delivered.csv"), "table", places({"c/3.png": "d3"}, OLD, nothing), []
        )
        Path("after.csv").write_bytes(extended(Path("archive.csv"), added))
        table = open_table(Path("after.csv"))
        rows = [("a/1.png", "Ödem", ""), ("c/3.png", "Łódź", "50")]
        assert list(table.rows(*table.columns)) == [row[: 3 if more else 2] for row in rows]

    def test_films_are_known_by_paths_of_another_machine(self) -> None:
        """As ingest knows them: what the archive's table says of D:\\films\\a\\1.png it says of a/1.png."""
        archive = "path,label\nD:\\films\\a\\1.png,x\n"
        assert self.added(archive, "path,label\n/mnt/a/1.png,x\n", {"a/1.png": "d1"}).rows == []
        with pytest.raises(UserError, match="row 1 of"):
            self.added(archive, "path,label\na/1.png,y\n", {"a/1.png": "d1"})
