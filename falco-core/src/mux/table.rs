//! The requests that a client's mux has accepted and that have not completed, by ticket.

use alloc::collections::VecDeque;

use super::call::Call;
use crate::message::RequestId;
use crate::send_queue::Bodies;

/// How many rows may be empty, in addition to one for each row with a request.
const SPARE: usize = 64;
/// The memory of this many rows is kept while there is a request.
const FEW: usize = 16;

/// One row for each request, sorted by ticket. Inserting the latest request and removing one
/// move no other rows: a row in the middle stays empty until many can be removed together. Finding
/// one takes logarithmic time at most.
pub(super) struct Table<B, W> {
    rows: VecDeque<Row<B, W>>,
    /// Rows that are not empty.
    count: usize,
    /// Requests that are held back.
    held_back: usize,
    /// No request with a smaller ticket is held back.
    first_held_back: u64,
}

struct Row<B, W> {
    ticket: u64,
    progress: Progress,
    call: Option<Call<B, W>>,
}

/// How much of a request has been sealed.
#[derive(Clone, Copy)]
pub(super) enum Progress {
    /// Nothing. It waits for its turn to enter the send queue.
    HeldBack,
    /// Nothing. It is in the send queue.
    Queued,
    /// A part. The rest is in the send queue.
    Partial(RequestId),
    /// All of it.
    Sent(RequestId),
}

impl<B, W> Table<B, W> {
    pub(super) const fn new() -> Self {
        Self {
            rows: VecDeque::new(),
            count: 0,
            held_back: 0,
            first_held_back: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn held_back(&self) -> usize {
        self.held_back
    }

    fn position(&self, ticket: u64) -> Result<usize, usize> {
        position(&self.rows, ticket, |row| row.ticket)
    }

    fn row_mut(&mut self, ticket: u64) -> Option<&mut Row<B, W>> {
        let at = self.position(ticket).ok()?;
        self.rows.get_mut(at).filter(|row| row.call.is_some())
    }

    pub(super) fn get(&self, ticket: u64) -> Option<&Call<B, W>> {
        let at = self.position(ticket).ok()?;
        self.rows.get(at)?.call.as_ref()
    }

    pub(super) fn get_mut(&mut self, ticket: u64) -> Option<&mut Call<B, W>> {
        self.row_mut(ticket)?.call.as_mut()
    }

    /// How much of a request has been sealed. To set or replace `HeldBack`, call
    /// [`hold_back`](Self::hold_back) or [`release`](Self::release) instead.
    pub(super) fn progress_mut(&mut self, ticket: u64) -> Option<&mut Progress> {
        Some(&mut self.row_mut(ticket)?.progress)
    }

    pub(super) fn contains(&self, ticket: u64) -> bool {
        self.get(ticket).is_some()
    }

    /// Adds a request, of which nothing was sealed.
    pub(super) fn insert(&mut self, call: Call<B, W>, is_held_back: bool) {
        let ticket = call.ticket;
        let progress = if is_held_back {
            self.note_held_back(ticket);
            Progress::HeldBack
        } else {
            Progress::Queued
        };
        let row = Row {
            ticket,
            progress,
            call: Some(call),
        };
        self.count += 1;
        if self.rows.back().is_none_or(|last| last.ticket < ticket) {
            self.rows.push_back(row);
            return;
        }
        match self.position(ticket) {
            Err(at) => self.rows.insert(at, row),
            // There is a row with this ticket: the request was taken out of this table before.
            Ok(at) => {
                let replaced = self.rows.get_mut(at).map(|old| core::mem::replace(old, row));
                if let Some(Row {
                    progress,
                    call: Some(_),
                    ..
                }) = replaced
                {
                    self.forget(progress);
                }
            }
        }
    }

    /// A request is no longer in the table.
    fn forget(&mut self, progress: Progress) {
        self.count -= 1;
        self.held_back -= usize::from(matches!(progress, Progress::HeldBack));
    }

    fn note_held_back(&mut self, ticket: u64) {
        if self.held_back == 0 || ticket < self.first_held_back {
            self.first_held_back = ticket;
        }
        self.held_back += 1;
    }

    /// Takes a request out.
    pub(super) fn take(&mut self, ticket: u64) -> Option<(Call<B, W>, Progress)> {
        let (progress, call) = match self.position(ticket).ok()? {
            // The first is not empty.
            0 => self.rows.pop_front().map(|row| (row.progress, row.call))?,
            at => self.rows.get_mut(at).map(|row| (row.progress, row.call.take()))?,
        };
        let call = call?;
        self.forget(progress);
        self.remove_empty_rows();
        Some((call, progress))
    }

    /// Releases memory that these requests do not need.
    pub(super) fn shrink(&mut self) {
        shrink(&mut self.rows, self.count, |row| row.call.is_none());
    }

    fn remove_empty_rows(&mut self) {
        remove_empty_rows(&mut self.rows, self.count, |row| row.call.is_none());
    }

    #[cfg(feature = "streams")]
    pub(super) fn waiter(&mut self, ticket: u64) -> Option<&mut W> {
        Some(&mut self.get_mut(ticket)?.waiter)
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = (u64, &W)> {
        self.rows
            .iter()
            .filter_map(|row| Some((row.ticket, &row.call.as_ref()?.waiter)))
    }

    /// Takes out the requests of which nothing was sealed, in the order of their tickets.
    pub(super) fn take_unbegun(&mut self, mut each: impl FnMut(Call<B, W>)) {
        for Row { progress, call, .. } in &mut self.rows {
            if matches!(progress, Progress::HeldBack | Progress::Queued)
                && let Some(call) = call.take()
            {
                self.count -= 1;
                each(call);
            }
        }
        self.held_back = 0;
        self.remove_empty_rows();
    }

    /// Takes all requests out, in the order of their tickets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Progress, Call<B, W>)> {
        let rows = core::mem::replace(self, Self::new()).rows;
        rows.into_iter().filter_map(|row| Some((row.progress, row.call?)))
    }
}

impl<B: AsRef<[u8]>, W> Table<B, W> {
    /// The first request that is held back, with its length.
    pub(super) fn next_held_back(&mut self) -> Option<(u64, usize)> {
        if self.held_back == 0 {
            return None;
        }
        let (Ok(at) | Err(at)) = self.position(self.first_held_back);
        let next = self.rows.range(at..).find_map(|row| {
            let call = row.call.as_ref()?;
            let held_back = matches!(row.progress, Progress::HeldBack);
            held_back.then(|| (row.ticket, call.body.as_ref().len()))
        });
        if let Some((ticket, _)) = next {
            self.first_held_back = ticket;
        }
        next
    }

    /// The length of the next request that is held back and not longer than `most`, if the first
    /// one is longer.
    pub(super) fn next_behind(&self, most: usize) -> Option<usize> {
        if self.held_back == 0 {
            return None;
        }
        let (Ok(at) | Err(at)) = self.position(self.first_held_back);
        let held_back = self
            .rows
            .range(at..)
            .filter(|row| matches!(row.progress, Progress::HeldBack));
        let mut lengths = held_back.filter_map(|row| Some(row.call.as_ref()?.body.as_ref().len()));
        let first = lengths.next().filter(|first| *first > most);
        first.and_then(|_| lengths.find(|length| *length <= most))
    }

    /// Moves a request that is held back to the send queue.
    pub(super) fn release(&mut self, ticket: u64) {
        if let Some(progress) = self.progress_mut(ticket) {
            *progress = Progress::Queued;
            self.held_back -= 1;
        }
    }

    /// Holds back a request that the server has refused.
    pub(super) fn hold_back(&mut self, ticket: u64) {
        if let Some(progress) = self.progress_mut(ticket) {
            *progress = Progress::HeldBack;
            self.note_held_back(ticket);
        }
    }
}

impl<B: AsRef<[u8]>, W> Bodies<u64> for Table<B, W> {
    fn body<'b>(&'b self, ticket: &'b u64) -> &'b [u8] {
        // Each request in the send queue is here.
        self.get(*ticket).map_or(&[], |call| call.body.as_ref())
    }
}

/// Removes the empty rows at both ends, and all of them if there are many. `count` rows are not
/// empty. A call after each row that becomes empty has a low amortized cost.
#[inline]
pub(super) fn remove_empty_rows<T>(rows: &mut VecDeque<T>, count: usize, is_empty: impl Fn(&T) -> bool) {
    while rows.front().is_some_and(&is_empty) {
        rows.pop_front();
    }
    while rows.back().is_some_and(&is_empty) {
        rows.pop_back();
    }
    // Each sweep removes at least as many as it keeps.
    if rows.len() > 2 * count + SPARE {
        rows.retain(|row| !is_empty(row));
    }
}

/// Releases memory of rows: all of it if `count`, the number of rows that are not empty, is 0.
/// Otherwise what they do not need, if there is room for more than [`FEW`] rows and for more than
/// four times `count`. So the amortized cost of a call is low.
pub(super) fn shrink<T>(rows: &mut VecDeque<T>, count: usize, is_empty: impl Fn(&T) -> bool) {
    if count == 0 {
        *rows = VecDeque::new();
    } else if rows.capacity() > FEW.max(4 * count) {
        rows.retain(|row| !is_empty(row));
        rows.shrink_to_fit();
    }
}

/// Where `number` is, or would be, among items sorted by their numbers. Numbers are mostly
/// consecutive, so the distance from the first is tried before a search.
#[inline]
pub(super) fn position<T>(items: &VecDeque<T>, number: u64, number_of: impl Fn(&T) -> u64) -> Result<usize, usize> {
    let distance = items.front().and_then(|first| number.checked_sub(number_of(first)));
    let guess = distance.and_then(|distance| usize::try_from(distance).ok());
    match guess {
        Some(at) if items.get(at).is_some_and(|item| number_of(item) == number) => Ok(at),
        _ => items.binary_search_by_key(&number, number_of),
    }
}
