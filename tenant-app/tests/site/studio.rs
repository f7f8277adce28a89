//! Bringing in whole courses.

use crate::support::{Site, browser::Part, studio_bundle};

#[tokio::test]
async fn a_course_comes_in_whole_or_not_at_all() {
    let site = Site::start().await;
    let mut teacher = site.signed_in("ibu").await;
    let course = studio_bundle::course("batik", "open", "published");
    assert_eq!(studio_bundle::send(&mut teacher, &course).await.status, 303);
    let again = studio_bundle::send(&mut teacher, &course).await;
    assert_eq!(again.status, 409);
    assert!(again.text().contains("batik"), "{}", again.text());

    let mut wrong = studio_bundle::course("tenun", "open", "published");
    wrong["modules"][0]["contents"][0]["items"][2]["file"] = "files/none.pdf".into();
    wrong["slug"] = "Not a slug".into();
    let refused = studio_bundle::send(&mut teacher, &wrong).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("modules[0].contents[0].items[2].file"), "{}", refused.text());

    let mut wrong = studio_bundle::course("tenun", "open", "published");
    wrong["modules"][0]["contents"][0]["items"][1]["file"] = "files/lembar.pdf".into();
    assert_eq!(studio_bundle::send(&mut teacher, &wrong).await.status, 422, "a PDF is no picture");
    assert_eq!(site.count("select count(*) from course").await, 1);
    assert_eq!(site.count("select count(*) from file").await, 2);
    assert_eq!(site.count("select count(*) from content_item").await, 5);

    let token = teacher.get("/studio").await.token();
    let parts = [Part::Text("csrf", &token), Part::Text("course", "{")];
    assert_eq!(teacher.upload("/studio/import", &parts).await.status, 422);
    assert!(teacher.get("/studio").await.text().contains("Kursus batik"));
}

#[tokio::test]
async fn the_studio_is_for_those_who_teach() {
    let site = Site::start().await;
    let mut learner = site.signed_in("budi").await;
    assert_eq!(learner.get("/studio").await.status, 403);
    let token = learner.get("/").await.token();
    let parts = [Part::Text("csrf", &token), Part::Text("course", "{}")];
    assert_eq!(learner.upload("/studio/import", &parts).await.status, 403);

    studio_bundle::import(&site, "ibu", "batik", "open", "draft").await;
    assert_eq!(site.signed_in("lain").await.get("/courses/batik").await.status, 404);
    assert_eq!(
        site.signed_in("ada").await.get("/courses/batik").await.status,
        200,
        "staff oversee"
    );
    site.sql("update platform.site_limit set max_courses = 1").await;
    let mut teacher = site.signed_in("ibu").await;
    let more = studio_bundle::course("tenun", "open", "draft");
    assert_eq!(studio_bundle::send(&mut teacher, &more).await.status, 409, "the plan's limit");
}

#[tokio::test]
async fn the_role_of_the_instance_cannot_raise_its_limits() {
    let site = Site::start().await;
    for table in ["site_authority", "site_limit", "move_marker"] {
        let writes = format!(
            "select count(*) from information_schema.role_table_grants where grantee = 'site_rw'
             and table_schema = 'platform' and table_name = '{table}' and privilege_type <> 'SELECT'"
        );
        assert_eq!(site.count(&writes).await, 0);
    }
    let tables = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname in ('public', 'platform') and c.relkind = 'r' and (c.relpersistence <> 'p'
         or not exists (select from pg_constraint where conrelid = c.oid and contype = 'p'))";
    assert_eq!(site.count(tables).await, 0, "every table has a key and is logged");
    let unindexed = "select count(*) from pg_constraint f where f.contype = 'f' and not exists (
         select from pg_index i where i.indrelid = f.conrelid and i.indkey[0] = f.conkey[1])
         and f.conrelid::regclass::text <> 'site_settings'";
    assert_eq!(site.count(unindexed).await, 0, "every foreign key has an index");
}
