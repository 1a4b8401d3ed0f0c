//! The tests that object_store publishes for implementations, as it runs them on `LocalFileSystem`.

macro_rules! integration {
    ($name:ident, $api:ident, $store:ty) => {
        mod $name {
            use $api::integration::*;

            async fn run(fsync: bool) {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let store = <$store>::new_with_prefix(directory.path()).expect("a store");
                let store = store.with_fsync(fsync);
                put_get_delete_list(&store).await;
                list_with_offset_exclusivity(&store).await;
                get_opts(&store).await;
                list_uses_directories_correctly(&store).await;
                list_with_delimiter(&store).await;
                rename_and_copy(&store).await;
                copy_if_not_exists(&store).await;
                copy_rename_nonexistent_object(&store).await;
                stream_get(&store).await;
                // Unlike `LocalFileSystem`, with conditional updates.
                put_opts(&store, true).await;
                multipart_race_condition(&store, true).await;
                multipart_out_of_order(&store).await;
            }

            #[tokio::test]
            async fn passes() {
                run(false).await;
            }

            #[tokio::test]
            async fn passes_with_fsync() {
                run(true).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn passes_on_two_threads() {
                run(false).await;
            }
        }
    };
}

integration!(
    v0_14,
    object_store,
    stillmap_object_store::StillmapFileSystem
);
#[cfg(feature = "object_store_0_13")]
integration!(
    v0_13,
    object_store_0_13,
    stillmap_object_store::object_store_0_13::StillmapFileSystem
);
