//! Adds counts files of patchtok together with Apache DataFusion.
//!
//! [`merge_counts`] does what [`patchtok::merge_counts`] does, and writes the same file, with a plan of DataFusion in the
//! place of a merge of sorted files: rows are grouped by chunk on all threads, and what does not fit into
//! [`Limits::memory`] goes to disk. So rows may come in any order, the number of files does not matter, and files may
//! come from any engine that writes the columns of `docs/counts.md`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{array_agg, sum};
use datafusion::functions_nested::expr_fn::{array_distinct, array_slice, array_sort, flatten};
use datafusion::logical_expr::{Expr, cast, col, lit};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt;
use patchtok::{CountSummary, PatchTokenizer, check_counts};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is no counts file, or one for another base.
    #[error(transparent)]
    Counts(#[from] patchtok::Error),
    /// A file is named twice. DataFusion would read it once.
    #[error("{} is named twice; its rows count once", .0.display())]
    Twice(PathBuf),
    /// DataFusion could not add the rows.
    #[error("cannot add the counts: {0}")]
    Query(#[from] DataFusionError),
    /// DataFusion has panicked, as it may on a damaged file.
    #[error("cannot add the counts: a file is damaged")]
    Panic,
    /// A folder for what does not fit into memory, or a file in it, cannot be made.
    #[error("cannot write in {}: {source}", folder.display())]
    Temporary {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What merging may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes of memory for rows that are grouped and sorted; what does not fit goes to files beside the result. Files
    /// that are read and written come on top. Without a limit nothing goes to disk but the result.
    pub memory: Option<usize>,
    /// Threads, by default as many as the process may use cores.
    pub threads: Option<usize>,
}

/// Adds counts files together into `out`, which becomes what [`patchtok::merge_counts`] makes of them.
///
/// The sum is written twice: by DataFusion into a file beside `out`, and from it by patchtok, which writes the format
/// and checks what it says of rows.
///
/// # Errors
/// [`Error::Counts`] for what [`patchtok::merge_counts`] refuses, but for rows that are not sorted and chunks that stand
/// twice, which are added; [`Error::Twice`]; [`Error::Query`] for damaged files, for negative numbers, and when the memory is too little;
/// [`Error::Temporary`].
pub fn merge_counts<P: AsRef<Path>>(
    base: &PatchTokenizer,
    files: &[P],
    out: impl AsRef<Path>,
    limits: Limits,
) -> Result<CountSummary, Error> {
    let out = out.as_ref();
    let listed = check_counts(base, files)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let failed = |source| Error::Temporary {
        folder: folder.into(),
        source,
    };
    let temporary = tempfile::Builder::new()
        .prefix(".patchtok-datafusion-")
        .suffix(".tmp")
        .tempdir_in(folder)
        .map_err(failed)?;
    let mut urls = Vec::new();
    for path in files {
        let url = url(path.as_ref())?;
        if urls.contains(&url) {
            return Err(Error::Twice(path.as_ref().into()));
        }
        urls.push(url);
    }
    let sum = temporary.path().join("sum.parquet");
    let threads = limits
        .threads
        .or(std::thread::available_parallelism().ok().map(usize::from));
    let threads = threads.unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .build()
        .map_err(failed)?;
    let session = session(temporary.path(), limits.memory, threads)?;
    let file = File::create(&sum).map_err(failed)?;
    // In a task of its own, so that a panic is an error.
    runtime
        .block_on(runtime.spawn(async move { write(plan(&session, urls, listed)?, file, listed).await }))
        .map_err(|_| Error::Panic)??;
    Ok(patchtok::merge_counts(base, &[sum], out)?)
}

/// A file as DataFusion names it. Patterns and escapes in the path mean nothing.
fn url(path: &Path) -> Result<ListingTableUrl, Error> {
    let absolute = std::path::absolute(path).map_err(DataFusionError::from)?;
    let url = url::Url::from_file_path(&absolute).map_err(|()| {
        let message = format!("{} cannot be named by a URL", absolute.display());
        DataFusionError::Configuration(message)
    })?;
    Ok(ListingTableUrl::try_new(url, None)?)
}

fn session(temporary: &Path, memory: Option<usize>, threads: usize) -> Result<SessionContext, DataFusionError> {
    let mut runtime = RuntimeEnvBuilder::new().with_temp_file_path(temporary);
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_collect_statistics(false);
    if let Some(memory) = memory {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(memory)));
        // One sort, which keeps little for the merge of its files: what a second one, and the merge of both, would need
        // is not there when the pool is full.
        let kept = config.options().execution.sort_spill_reservation_bytes;
        config = config
            .with_sort_spill_reservation_bytes(kept.min(memory / 16))
            .with_repartition_sorts(false);
    }
    Ok(SessionContext::new_with_config_rt(config, runtime.build_arc()?))
}

/// The columns as DataFusion is to read them; a file may have them in types that can be cast to these.
fn schema() -> SchemaRef {
    let documents = Field::new_list_field(DataType::Int64, true);
    Arc::new(Schema::new(vec![
        Field::new("chunk", DataType::Utf8View, true),
        Field::new("count", DataType::Int64, true),
        Field::new("heldout", DataType::Int64, true),
        Field::new("documents", DataType::List(Arc::new(documents)), true),
    ]))
}

/// The sum of the rows of `files`, sorted by chunk, with the `listed` smallest documents of each.
fn plan(session: &SessionContext, files: Vec<ListingTableUrl>, listed: usize) -> Result<DataFrame, DataFusionError> {
    let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("");
    let table = ListingTableConfig::new_with_multi_paths(files)
        .with_listing_options(options)
        .with_schema(schema());
    // No number of a file is negative, and no sum overflows.
    let unsigned = |name: &str| cast(cast(col(name), DataType::UInt64), DataType::Decimal128(20, 0));
    let number = |name: &str| cast(col(name), DataType::Int64).alias(name);
    let text = |text: &str| lit(text);
    let smallest = array_sort(
        array_distinct(flatten(col("documents"))),
        text("ASC"),
        text("NULLS LAST"),
    );
    let listed = i64::try_from(listed).unwrap_or(i64::MAX);
    let chunk = || Expr::from(datafusion::common::Column::from_name("chunk"));
    session
        .read_table(Arc::new(ListingTable::try_new(table)?))?
        .aggregate(
            vec![coalesce(vec![chunk(), lit(ScalarValue::Utf8View(Some(String::new())))]).alias("chunk")],
            vec![
                sum(unsigned("count")).alias("count"),
                sum(unsigned("heldout")).alias("heldout"),
                array_agg(col("documents")).alias("documents"),
            ],
        )?
        .select(vec![
            chunk(),
            number("count"),
            number("heldout"),
            array_slice(smallest, lit(1_i64), lit(listed), None).alias("documents"),
        ])?
        .sort(vec![chunk().sort(true, true)])
}

/// Writes the rows to `file`, a batch at a time.
async fn write(rows: DataFrame, file: File, listed: usize) -> Result<(), DataFusionError> {
    /// Rows of a row group, all of which are in memory while it is written.
    const GROUP_ROWS: usize = 1 << 16;
    let mut rows = rows.execute_stream().await?;
    let properties = || -> Result<WriterProperties, ParquetError> {
        Ok(WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                "listed_documents".to_owned(),
                listed.to_string(),
            )]))
            .build())
    };
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties()?))?;
    while let Some(batch) = rows.next().await {
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(())
}
