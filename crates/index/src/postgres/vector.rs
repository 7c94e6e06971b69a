//! pgvector's `vector` on the wire.

use bytes::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use std::error::Error;

/// A row of numbers: two bytes for how many, two that are zero, and f32s, all
/// big-endian.
#[derive(Debug)]
pub(super) struct Vector(pub Vec<f32>);

impl ToSql for Vector {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&u16::try_from(self.0.len())?.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        self.0.iter().for_each(|x| out.extend_from_slice(&x.to_be_bytes()));
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        kind.name() == "vector"
    }

    to_sql_checked!();
}

impl FromSql<'_> for Vector {
    fn from_sql(_: &Type, bytes: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let (head, numbers) = bytes.split_at_checked(4).ok_or("a vector is cut off")?;
        if numbers.len() != usize::from(u16::from_be_bytes([head[0], head[1]])) * 4 {
            return Err("a vector is of another length than it says".into());
        }
        Ok(Self(numbers.chunks_exact(4).map(|b| f32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect()))
    }

    fn accepts(kind: &Type) -> bool {
        kind.name() == "vector"
    }
}
