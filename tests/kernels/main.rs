//! Every kernel, on the CPU and on each adapter of this machine, against formulas written out anew in f64 or in
//! integers. Integer results are equal bit for bit; each float result has a bound with its reason.

mod elements;
mod float_product;
mod half_product;
mod harness;
mod integer_product;
mod peaks;
mod quantize;
mod row_codes;
mod rows;
mod scores;
